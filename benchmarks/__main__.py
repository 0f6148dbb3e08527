"""Measures time and memory of this project and of other implementations of the same work.

rope       rotation of queries
train      training step of two language models and a vision transformer
attention  training step and its peak memory, by sequence length
generate   generation of one token
startup    train.py --help, and train.py up to its first step
speedrun   a training run on Shakespeare compared with nanoGPT's recipe (minutes each)
axial      training step of a vision transformer with full and with axial attention

PyTorch, rotary-embedding-torch, transformers and KerasHub are measured if requirements-bench.txt is
installed. Implementations of the same work are measured alternately, each in its own process; `ratio` is the
time divided by that of the first.
"""

import argparse
import importlib.metadata
import json
import sys

from benchmarks.harness import FAILED, Contender, Workload, measure
from benchmarks.workloads import WORKLOADS
from runs.arguments import positive_integer
from system.command import quiet_imports, run_command
from system.text import format_table, print_error, print_result

PACKAGES = ("tensorflow", "keras", "torch", "rotary-embedding-torch", "transformers", "keras-hub")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    rows, left_out = [], {}
    for workload in options.workloads:
        print_error(f"{workload.title}: {', '.join(contender.name for contender in workload.contenders)}")
        measured, problems = measure(workload, repeats=options.repeats)
        rows += measured
        for name, problem in problems:
            left_out.setdefault(problem, []).append(f"{workload.title}: {name}")
    with quiet_imports():
        from training.hardware import describe_machine
    installed = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
    versions = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
    facts = {"machine": describe_machine(), "packages": versions}
    if options.json:
        print_result(json.dumps(facts | {"rows": rows, "left_out": left_out}, indent=1))
    else:
        print_result(", ".join([facts["machine"], *facts["packages"]]))
        if rows:
            print_result(format_table([round_numbers(row) for row in rows]))
        for problem, names in left_out.items():
            print_result(f"left out, {problem}: {'; '.join(names)}")
    return int(FAILED in left_out)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=WORKLOADS, metavar="subject", help=", ".join(WORKLOADS))
    repeats = "number of rounds (default %(default)s)"
    parser.add_argument("--repeats", type=positive_integer, default=5, help=repeats)
    only = (
        "measure only implementations whose `WORK: BY`, the first two columns of the table, contains one of "
        "these texts"
    )
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=[""], help=only)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    options.workloads = [
        workload._replace(contenders=contenders)
        for workload in WORKLOADS[options.subject]
        if (contenders := [each for each in workload.contenders if is_chosen(workload, each, options.only)])
    ]
    if not options.workloads:
        texts = " or ".join(map(repr, options.only))
        parser.error(f"argument --only: no row of {options.subject} contains {texts}")
    return options


def is_chosen(workload: Workload, contender: Contender, texts: list[str]) -> bool:
    return any(text in f"{workload.title}: {contender.name}" for text in texts)


def round_numbers(row: dict) -> dict:
    """The row with three digits of each float."""
    return {
        name: (f"{value:,.0f}" if value >= 100 else f"{value:#.3g}") if isinstance(value, float) else value
        for name, value in row.items()
    }


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
