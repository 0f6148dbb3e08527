"""Lists runs and the keys in which they differ, sorted by loss: `python -m scripts.list_runs outputs`."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/list_runs.py`

from configs.run_table import describe_run, differing_keys, find_runs, format_runs
from system.command import run_command
from system.errors import RunError
from system.text import format_command, print_result


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    runs = [describe_run(path) for path in find_runs(options.directories)]
    if not runs:
        places = ", ".join(map(str, options.directories))
        raise RunError(f"no run in {places}. Train one: {format_command('train.py')}")
    keys = differing_keys([run["config"] for run in runs if run["config"]])
    print_result(json.dumps(runs, indent=1) if options.json else format_runs(runs, keys))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.list_runs", description=__doc__)
    add, default = parser.add_argument, [Path("outputs")]
    directory = "folder of runs, or a run (default outputs)"
    add("directories", type=Path, nargs="*", metavar="directory", default=default, help=directory)
    add("--json", action="store_true", help="print all keys as JSON instead of a table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
