"""What the parts of this repository cost, beside others that do the same: `python -m benchmarks rope`.

rope: the rotation of queries. train: a step of the language models and of a vision transformer. attention:
time and peak memory of a step, by length. generate: a token. data: batches and checkpoints, beside steps.
startup: commands. speedrun: a run on Shakespeare and nanoGPT's recipe, minutes each. axial: a step of the
vision transformer, with attention over all patches or within rows and columns.

PyTorch, rotary-embedding-torch, transformers and KerasHub take part where requirements-bench.txt is
installed. All that do the same work take turns in one run, each in a process of its own; `ratio` is the time
to that of the first.
"""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Iterator

from benchmarks.harness import FAILED, Contender, Cost, costs
from benchmarks.plan import WORKLOADS, Workload
from runs.arguments import positive_integer
from system.command import run_command
from system.machine import describe_machine
from system.text import format_table

PACKAGES = ("tensorflow", "keras", "torch", "rotary-embedding-torch", "transformers", "keras-hub")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    rows, left_out = [], {}
    for workload, contenders in options.cases:
        print(f"{workload.title}: {', '.join(contender.name for contender in contenders)}", file=sys.stderr)
        measured = costs(contenders, workload.sizes, repeats=options.repeats)
        rows += rows_of(workload, contenders, measured)
        for contender, problem in zip(contenders, measured, strict=True):
            if isinstance(problem, str):
                left_out.setdefault(problem, []).append(f"{workload.title}: {contender.name}")
    facts = {"machine": describe_machine(), "packages": versions()}
    if options.json:
        print(json.dumps(facts | {"rows": rows, "left_out": left_out}, indent=1))
    else:
        print(", ".join([facts["machine"], *facts["packages"]]))
        print(*([format_table(list(map(shown, rows)))] if rows else []), sep="\n")
        for problem, names in left_out.items():
            print(f"left out, {problem}: {'; '.join(names)}")
    return int(FAILED in left_out)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=WORKLOADS)
    parser.add_argument("--repeats", type=positive_integer, default=5, help="rounds (default %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        default=[""],
        help="what has one of these in `WORK: BY` of the table",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    options.cases = list(chosen(options.what, options.only))
    if not options.cases:
        texts = " or ".join(map(repr, options.only))
        parser.error(f"argument --only: nothing that {options.what} measures has {texts} in its name")
    return options


def chosen(what: str, texts: list[str]) -> Iterator[tuple[Workload, list[Contender]]]:
    for workload in WORKLOADS[what]:
        names = [f"{workload.title}: {contender.name}" for contender in workload.contenders]
        named = zip(names, workload.contenders, strict=True)
        contenders = [contender for name, contender in named if any(text in name for text in texts)]
        if contenders:
            yield workload, contenders


def rows_of(workload: Workload, contenders: list[Contender], measured: list[Cost | str]) -> Iterator[dict]:
    first = next((cost.seconds for cost in measured if isinstance(cost, Cost)), None)
    for contender, cost in zip(contenders, measured, strict=True):
        if isinstance(cost, Cost):
            yield {
                "work": workload.title,
                "by": contender.name,
                "milliseconds": cost.seconds * 1e3,
                "first_quartile": cost.first_quartile * 1e3,
                "third_quartile": cost.third_quartile * 1e3,
                "ratio": cost.seconds / first,
            } | memory_and_rate(workload, cost)


def memory_and_rate(workload: Workload, cost: Cost) -> dict:
    """Of work that is no command."""
    if workload.rate is None:
        return {}
    unit, number = workload.rate
    return {"peak_megabytes": round(cost.peak_bytes / 1e6), unit: number / cost.seconds}


def shown(row: dict) -> dict:
    """With three digits of each number."""
    return {name: digits(value) if isinstance(value, float) else value for name, value in row.items()}


def digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def versions() -> list[str]:
    """Of the packages that take part."""
    installed = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
    return [f"{name} {installed[name]}" for name in PACKAGES if name in installed]


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
