"""Draws the attention weights of each head of a language model: `python -m scripts.visualize outputs/lm`.

Of a run with learned rotations, it also draws their angles, as rotations.png.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/visualize.py`

from runs.arguments import add_step_option
from system.command import quiet_imports, run_command
from system.text import print_result


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with quiet_imports():
        from runs.attention_figure import plot_attention

    path = (options.output or options.run_directory) / "attention.png"
    angles = plot_attention(path, options.run_directory, prompt=options.prompt, step=options.step)
    if options.json:
        print_result(json.dumps(angles, indent=1))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.visualize", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="run of a language model, such as outputs/lm")
    parser.add_argument("--prompt", help="input text (default a Python statement)")
    add_step_option(parser)
    output = "folder of the pictures (default the run directory)"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=output)
    angles = "print the root mean square of the learned angles of each layer, in radians, as JSON"
    parser.add_argument("--json", action="store_true", help=angles)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
