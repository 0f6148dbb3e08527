"""Measures passkey retrieval by length of context and depth: `python -m scripts.passkey outputs/passkey`.

With --zero-shot linear,ntk,yarn,dynamic: under these scalings too. A text states a key and asks for it at its
end. A run that finds fewer than nine keys of ten at the length that it was trained at has not learned the
task: its numbers are printed, but no heat map is drawn.
"""

import argparse
import json
import sys
from pathlib import Path

from runs.arguments import add_zero_shot_option, tokens
from runs.devices import import_tensorflow
from system.command import run_command

PICTURE = "passkey.png"
MAX_DEPTHS = 101


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    import_tensorflow()

    from runs.retrieval import load_runs, publish, retrieve, table_rows
    from system.text import format_table

    paths = list(dict.fromkeys(options.run_directories))
    rows = retrieve(
        load_runs(paths),
        options.lengths,
        depths=options.depths,
        examples=options.examples,
        scalings=options.zero_shot or [],
    )
    print(json.dumps(rows, indent=1) if options.json else format_table(table_rows(rows)))
    publish(rows, (paths[0] if len(paths) == 1 else Path()) / PICTURE)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.passkey", description=__doc__)
    parser.add_argument("run_directories", type=Path, nargs="+", metavar="run_directory")
    parser.add_argument(
        "--lengths",
        type=tokens,
        nargs="+",
        default=[256, 512, 1024],
        help="of context, in tokens, beside the trained length of each run (default 256 512 1024)",
    )
    parser.add_argument(
        "--depths", type=tokens, default=11, help="of the key, from 0%% to 100%% (default %(default)s)"
    )
    parser.add_argument(
        "--examples", type=tokens, default=100, help="texts for each length and depth (default %(default)s)"
    )
    add_zero_shot_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if not 2 <= options.depths <= MAX_DEPTHS:
        parser.error(f"--depths must be 2 to {MAX_DEPTHS}, got {options.depths}")
    return options


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
