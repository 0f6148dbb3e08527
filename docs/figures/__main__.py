"""Draws the figures of docs/rope_explained.md: python -m docs.figures"""

import argparse
import sys
from pathlib import Path

from system.command import quiet_imports, run_command
from system.text import print_line

PAGE_FOLDER = Path(__file__).resolve().parents[1] / "rope_explained"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.figures", description=__doc__)
    help_text = "where to write the PNG files (default docs/rope_explained)"
    parser.add_argument("folder", type=Path, nargs="?", default=PAGE_FOLDER, help=help_text)
    folder = parser.parse_args(arguments).folder
    with quiet_imports():
        from docs.figures import before_rotation, extensions, rotary
        from runs.figure_style import draw
        from training.hardware import initialize_devices
    initialize_devices()

    folder.mkdir(parents=True, exist_ok=True)
    for function in (*before_rotation.FIGURES, *rotary.FIGURES, *extensions.FIGURES):
        path = folder / f"{function.__name__}.png"
        draw(function, path)
        print_line(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
