"""Draws the figures of docs/rope_explained.md: `python -m scripts.visualize`, or one by name, with options.

Of trained runs: `python -m scripts.visualize attention outputs/lm --prompt "def "`, where each head of a
language model looks; `python -m scripts.visualize resolution outputs/vit`, how a vision transformer fares at
other image sizes.
"""

import argparse
import importlib
import sys
from pathlib import Path

from docs.figures.catalogue import FIGURES, OPTIONS
from runs.devices import import_tensorflow
from scripts.evaluate import image_size
from system.command import run_command

FOLDER = Path("outputs/figures")
PROMPT = "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self."


def main(arguments: list[str]) -> None:
    options = vars(parse(arguments))
    name, folder = options.pop("figure"), options.pop("output", FOLDER)
    import_tensorflow()

    from docs.figures.style import draw

    folder.mkdir(parents=True, exist_ok=True)
    for figure in FIGURES if name is None else [name]:
        path = folder / f"{figure}.png"
        draw(function_of(figure), path, **(options if name else FIGURES[figure].options))
        print(f"wrote {path}")


def function_of(figure: str):
    module = FIGURES[figure].module if figure in FIGURES else "trained"
    return getattr(importlib.import_module(f"docs.figures.{module}"), figure)


def parse(arguments: list[str]) -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--output",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help=f"where the PNG goes (default {FOLDER})",
    )
    parser = argparse.ArgumentParser(
        prog="python -m scripts.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    names = parser.add_subparsers(dest="figure", metavar="figure", help="all of the page when not given")
    for name, drawing in FIGURES.items():
        figure = names.add_parser(name, help=drawing.shows, description=drawing.shows, parents=[shared])
        for option, default in drawing.options.items():
            add_option(figure, option, default)
    add_trained(names, shared)
    return parser.parse_args(arguments)


def add_option(parser: argparse.ArgumentParser, option: str, default: object) -> None:
    reading, meaning = OPTIONS[option]
    shown = (
        ",".join(default) if isinstance(default, list) else f"{default:,}" if option == "length" else default
    )
    parser.add_argument(
        f"--{option.replace('_', '-')}", default=default, help=f"{meaning} (default {shown})", **reading
    )


def add_trained(names, shared: argparse.ArgumentParser) -> None:
    """The figures of a run."""
    shows = "where each head of a trained language model looks"
    attention = names.add_parser("attention", help=shows, description=shows, parents=[shared])
    attention.add_argument("run_directory", type=Path, help="of a trained language model: outputs/lm")
    attention.add_argument(
        "--prompt", default=PROMPT, help="text that it reads (default a few lines of Python)"
    )
    shows = "accuracy of trained vision transformers by image size, and one image at each"
    resolution = names.add_parser("resolution", help=shows, description=shows, parents=[shared])
    resolution.add_argument("run_directories", type=Path, nargs="+", metavar="run_directory")
    resolution.add_argument(
        "--image-size",
        type=image_size,
        nargs="+",
        metavar="SIZE",
        help="sizes, N or HEIGHTxWIDTH (default 1, 1.5 and 2 times that of the first run)",
    )


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
