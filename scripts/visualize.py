"""Draws the attention weights of each head of a language model: `python -m scripts.visualize outputs/lm`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/visualize.py`

from runs.arguments import ArgumentParser, add_step_option
from system.command import quiet_imports, run_command


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with quiet_imports():
        from runs.attention_figure import plot_attention

    path = (options.output or options.run_directory) / "attention.png"
    plot_attention(path, options.run_directory, prompt=options.prompt, step=options.step)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m scripts.visualize", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="run of a language model, such as outputs/lm")
    parser.add_argument("--prompt", help="input text (default a Python statement)")
    add_step_option(parser)
    output = "folder of attention.png (default the run directory)"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=output)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
