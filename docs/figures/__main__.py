"""Draws the figures of docs/rope_explained.md: python -m docs.figures"""

import argparse
import sys
from pathlib import Path

from system.command import quiet_imports, run_command
from system.text import print_line

DOCS = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.figures", description=__doc__)
    help_text = "where to write the PNG files (default docs)"
    parser.add_argument("folder", type=Path, nargs="?", default=DOCS, help=help_text)
    folder = parser.parse_args(arguments).folder
    with quiet_imports():
        from docs.figures.before_rotation import absolute, order, relative
        from docs.figures.extensions import grid, interpolation, scalings
        from docs.figures.rotary import decay, distance, frequencies, matrix, pairs, turn, xpos
        from runs.figure_style import draw
        from training.hardware import initialize_devices
    initialize_devices()

    page = folder / "rope_explained"
    page.mkdir(parents=True, exist_ok=True)
    figures = order, absolute, relative, turn, pairs, frequencies, matrix, distance, decay, xpos
    for function in (*figures, interpolation, scalings, grid):
        draw(function, page / f"{function.__name__}.png")
    print_line(f"wrote {page}/*.png")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
