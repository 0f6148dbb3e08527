"""Argument types and output files of the evaluation commands; imports no TensorFlow."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from system.errors import RunError, reason
from system.text import did_you_mean, print_error

LARGEST = 2**31 - 1  # sizes and indices are int32 in TensorFlow
SCALINGS = ("linear", "ntk", "yarn", "dynamic")


def add_zero_shot_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--zero-shot",
        type=scaling_list,
        metavar="SCALING,...",
        help="also evaluate under these rotary scalings, without training, separated by commas: "
        f"{', '.join(SCALINGS)} (linear is positional interpolation); beyond the trained length, the factor "
        "is context length / trained length",
    )


def add_step_option(parser: argparse._ActionsContainer) -> None:
    step = "checkpoint: a step, `latest`, or `best`: the lowest held-out loss (default %(default)s)"
    parser.add_argument("--step", type=checkpoint_step, default="latest", help=step)


def checkpoint_step(text: str) -> int | str:
    if text in ("latest", "best"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a step, latest or best, got {text!r}")
    return int(text)


def positive_integer(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        hint = "; separate several by spaces" if "," in text else ""
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {LARGEST}, got {text!r}{hint}")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Height and width from `8` or `8x12`."""
    sides = tuple(int(side) if side.isdecimal() else 0 for side in text.split("x"))
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"must be pixels, such as 16 or 16x24, got {text!r}")
    return sides[0], sides[-1]


def scaling_list(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in SCALINGS:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(SCALINGS)}; got {name!r}{did_you_mean(name, SCALINGS)}"
            )
    return names


def default_picture(run_directories: list[Path], name: str) -> Path:
    """Path of a picture in the run directory, or in the current directory for several runs."""
    return run_directories[0] / name if len(run_directories) == 1 else Path(name)


@contextlib.contextmanager
def writing(path: Path, *, quiet: bool = False) -> Iterator[Path]:
    """Yields the path of a file and prints it, unless `quiet`; RunError if it cannot be written."""
    try:
        yield path
    except OSError as error:
        raise RunError(f"cannot write {path} ({reason(error)})") from error
    if not quiet:
        print_error(f"wrote {path}")
