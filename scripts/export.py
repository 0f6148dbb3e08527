"""Exports a trained model: `python -m scripts.export outputs/lm --format onnx --output lm_onnx`.

Compares the exported model with the run on held-out data. docs/export.md shows how to load each format.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/export.py`

from runs.arguments import add_step_option
from system.command import quiet_imports, run_command
from system.text import print_result

FORMATS = ("saved_model", "keras", "litert", "onnx", "huggingface")


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with quiet_imports():
        from runs.exports import export_run

    print_result(export_run(options.run_directory, options.format, options.output, step=options.step))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="run, such as outputs/lm or outputs/vit")
    parser.add_argument("--format", choices=FORMATS, required=True, help="format of the files")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to create")
    add_step_option(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
