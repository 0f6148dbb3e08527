"""Measures time and memory of this project and of other implementations of the same work.

rope       rotation of queries
train      training step of two language models and a vision transformer
attention  training step and its peak memory, by sequence length
generate   generation of one token
startup    train.py --help, and train.py up to its first step
axial      training step of a vision transformer with full and with axial attention

PyTorch, rotary-embedding-torch, transformers and KerasHub are measured if requirements-bench.txt is
installed. Implementations of the same work, a group, are measured alternately, each in its own process;
`ratio` is the time divided by that of the first. Each group is printed as soon as it is measured.
"""

import argparse
import datetime
import importlib.metadata
import json
import sys
from pathlib import Path

from benchmarks.harness import FAILED, Contender, Workload, measure
from benchmarks.workloads import WORKLOADS
from runs.arguments import positive_integer
from system.command import quiet_imports, run_command
from system.files import write_text
from system.text import format_duration, format_table, print_error, print_result

PACKAGES = ("tensorflow", "keras", "torch", "rotary-embedding-torch", "transformers", "keras-hub")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with quiet_imports():
        from training.hardware import describe_machine
    installed = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
    facts = {
        "machine": describe_machine(),
        "date": str(datetime.date.today()),
        "packages": ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed),
    }
    print_result(", ".join(facts.values()))
    counts = ((len(workload.contenders), *workload.seconds) for workload in options.workloads)
    estimate = sum(count * (start + options.repeats * turn) for count, start, turn in counts)
    print_error(f"about {format_duration(estimate)} (minutes:seconds) if all are installed")
    rows = []
    for workload in options.workloads:
        print_error(f"{workload.title}: {'; '.join(contender.name for contender in workload.contenders)}")
        group = measure(workload, repeats=options.repeats)
        rows += [facts | row for row in group]
        if options.json:
            write_text(options.json, json.dumps(rows, indent=1) + "\n")
        if measured := [round_numbers(row) for row in group if "left_out" not in row]:
            print_result(format_table(measured))
        for row in group:
            if "left_out" in row:
                print_result(f"left out: {row['by']}: {row['left_out']}")
    return int(any(row.get("left_out", "").startswith(FAILED) for row in rows))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("subject", choices=WORKLOADS, metavar="subject", help=", ".join(WORKLOADS))
    add("--repeats", type=positive_integer, default=5, help="number of rounds (default %(default)s)")
    only = "only rows whose `WORK: BY`, the first two columns of the table, contains one of these texts"
    add("--only", nargs="+", metavar="TEXT", default=[""], help=only)
    quick = "about two minutes: one round of the first group, with one implementation of each kind"
    add("--quick", action="store_true", help=quick)
    add("--json", type=Path, metavar="PATH", help="file of all rows as JSON, written again after each group")
    options = parser.parse_args(arguments)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"argument --json: {options.json.parent} is not a directory")
    options.workloads = WORKLOADS[options.subject]
    if options.quick:
        options.workloads, options.repeats = options.workloads[:1], 1
    options.workloads = [
        workload._replace(contenders=contenders)
        for workload in options.workloads
        if (contenders := [each for each in workload.contenders if is_chosen(workload, each, options)])
    ]
    if not options.workloads:
        texts = " or ".join(map(repr, options.only))
        parser.error(f"argument --only: no row of {options.subject} contains {texts}")
    return options


def is_chosen(workload: Workload, contender: Contender, options: argparse.Namespace) -> bool:
    is_named = any(text in f"{workload.title}: {contender.name}" for text in options.only)
    return is_named and (contender.is_quick or not options.quick)


def round_numbers(row: dict) -> dict:
    """The row with three digits of each float."""
    return {
        name: (f"{value:,.0f}" if value >= 100 else f"{value:#.3g}") if isinstance(value, float) else value
        for name, value in row.items()
    }


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
