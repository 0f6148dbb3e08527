"""The command-line options of an evaluation by window; imports no TensorFlow."""

import argparse
from pathlib import Path

from configs.values import one_of

# About a minute and a half on two cores with the five windows from 128 to 2,048 and the default model.
DEFAULT_TARGETS = 20_000
ATTENTIONS = ("full", "blockwise-causal")
SCALINGS = ("linear", "ntk", "yarn", "dynamic")
PICTURE = "context.png"
PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def add_window_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("loss by window of context")
    group.add_argument(
        "--windows",
        type=tokens,
        nargs="+",
        help="of context, in tokens: --windows 128 256 512 1024 2048; the column `difference` is to the loss "
        "of the first row, on the same bytes",
    )
    group.add_argument(
        "--stride",
        type=tokens,
        help="targets that one pass predicts: each sees WINDOW - STRIDE + 1 to WINDOW tokens "
        "(default half the smallest window)",
    )
    group.add_argument(
        "--targets", type=tokens, help=f"about how many bytes to predict (default {DEFAULT_TARGETS:,})"
    )
    add_zero_shot_option(group)
    group.add_argument(
        "--attention",
        choices=ATTENTIONS,
        help="blockwise-causal (arXiv 2212.10554): a token sees its block of half the trained length and the "
        "one before (default full)",
    )
    group.add_argument("--csv", type=new_file, metavar="FILE", help="write the rows there as well")
    group.add_argument(
        "--plot",
        type=picture,
        metavar="FILE",
        help=f"write the picture there (default {PICTURE} in the run directory, or here for several runs)",
    )


def add_zero_shot_option(parser) -> None:
    parser.add_argument(
        "--zero-shot",
        type=scalings,
        metavar="SCALING,...",
        help=f"the same weights under {','.join(SCALINGS)}, without training: beyond the trained length, the "
        "factor is length of context / trained length",
    )


def settle_window_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Fills in the defaults; ends with an error of `parser` for options that contradict each other."""
    if options.windows is None:
        for name in ("stride", "targets", "zero_shot", "attention", "csv", "plot"):
            if getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')} has no effect without --windows")
        return
    options.windows = sorted(set(options.windows))
    smallest = options.windows[0]
    if options.stride is None:
        options.stride = max(1, smallest // 2)
    if options.stride > smallest:
        parser.error(f"--stride must be at most the smallest window {smallest}, got {options.stride}")
    if options.targets is None:
        options.targets = max(DEFAULT_TARGETS, options.stride)
    if options.targets < options.stride:
        parser.error(f"--targets must be at least the stride {options.stride}, got {options.targets}")
    options.zero_shot = options.zero_shot or []
    options.attention = options.attention or "full"
    if options.plot is None:
        options.plot = (options.run_directories[0] if len(options.run_directories) == 1 else Path()) / PICTURE


def tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        several = "; separate several by blanks" if "," in text else ""
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}{several}")
    return int(text)


def new_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text}: there is no directory {path.parent}")
    return path


def picture(text: str) -> Path:
    path = new_file(text)
    if path.suffix not in PICTURE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURE_SUFFIXES)}, got {text!r}")
    return path


def scalings(text: str) -> list[str]:
    try:
        return list(dict.fromkeys(one_of(name, SCALINGS) for name in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
