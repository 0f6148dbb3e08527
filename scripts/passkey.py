"""Measures passkey retrieval by context length and depth: `python -m scripts.passkey outputs/passkey`.

A text states a passkey at some depth and asks for it at the end. With --zero-shot linear,ntk,yarn,dynamic,
the weights are also evaluated under these rotary scalings. Prints a table and draws a heat map, passkey.png.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/passkey.py`

from runs.arguments import add_step_option, add_zero_shot_option, default_picture, positive_integer, writing
from system.command import quiet_imports, run_command
from system.text import format_table, print_result


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with quiet_imports():
        from models.config import TransformerLMConfig
        from runs.evaluate_passkey import evaluate_passkeys, plot_rows, table_rows
        from runs.load import load_run

    paths = list(dict.fromkeys(options.run_directories))
    rows = evaluate_passkeys(
        [load_run(path, of=TransformerLMConfig, step=options.step) for path in paths],
        options.lengths,
        num_depths=options.depths,
        examples=options.examples,
        scalings=options.zero_shot or [],
    )
    print_result(json.dumps(rows, indent=1) if options.json else format_table(table_rows(rows)))
    with writing(default_picture(paths, "passkey.png")) as path:
        plot_rows(rows, path)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.passkey", description=__doc__)
    add, run = parser.add_argument, "run of a language model, such as outputs/passkey"
    add("run_directories", type=Path, nargs="+", metavar="run_directory", help=run)
    lengths = "context lengths in tokens, besides the trained length of each run (default 256 512 1024)"
    add("--lengths", type=positive_integer, nargs="+", default=[256, 512, 1024], help=lengths)
    depths = "number of depths of the passkey, from 0%% to 100%% of the text (default %(default)s)"
    add("--depths", type=positive_integer, default=11, help=depths)
    examples = "number of texts for each length and depth (default %(default)s)"
    add("--examples", type=positive_integer, default=100, help=examples)
    add_zero_shot_option(parser)
    add_step_option(parser)
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
