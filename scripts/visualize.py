"""Draws figures of trained runs, as PNG files in `outputs/figures` or the folder of `--output`.

python -m scripts.visualize attention outputs/lm --prompt "def "    attention weights of each head
python -m scripts.visualize resolution outputs/vit                  accuracy by image size
"""

import argparse
import sys
from pathlib import Path

from runs.arguments import image_size
from system.command import quiet_imports, run_command
from system.text import print_line

FOLDER = Path("outputs/figures")
PROMPT = "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self."


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with quiet_imports():
        from runs.evaluate_runs import evaluate_runs
        from runs.figure_style import draw
        from runs.run_figures import attention, default_sizes, resolution

    path = options.output / f"{options.figure}.png"
    options.output.mkdir(parents=True, exist_ok=True)
    if options.figure == "attention":
        draw(attention, path, run_directory=options.run_directory, prompt=options.prompt)
    else:
        sizes = options.image_size or default_sizes(options.run_directories[0])
        draw(resolution, path, rows=evaluate_runs(options.run_directories, sizes))
    print_line(f"wrote {path}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    figures = parser.add_subparsers(dest="figure", metavar="figure", required=True)
    attention = figures.add_parser("attention", help="attention weights of each head of a language model")
    attention.add_argument("run_directory", type=Path, help="run of a language model, such as outputs/lm")
    attention.add_argument("--prompt", default=PROMPT, help="input text (default a Python class)")
    resolution = figures.add_parser("resolution", help="accuracy of vision transformers by image size")
    resolution.add_argument("run_directories", type=Path, nargs="+", metavar="run_directory")
    sizes = "image sizes, N or HEIGHTxWIDTH (default 1, 1.5 and 2 times that of the first run)"
    resolution.add_argument("--image-size", type=image_size, nargs="+", metavar="SIZE", help=sizes)
    for figure in (attention, resolution):
        output = f"folder of the PNG file (default {FOLDER})"
        figure.add_argument("--output", type=Path, default=FOLDER, metavar="FOLDER", help=output)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
