"""What the parts of this repository cost, beside others that do the same: `python -m scripts.benchmark rope`.

rope: the rotation of queries. train: a step of the language models and of a vision transformer. attention:
time and peak memory of a step, by length. generate: a token. data: batches, beside the steps that take them.
startup: commands. axial: a step of the vision transformer, by its grid of patches, with attention over all
of them or within rows and columns.

PyTorch, rotary-embedding-torch, transformers and KerasHub take part where requirements-bench.txt is
installed. All that do the same work take turns in one run, each in a process of its own.
"""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Sequence

from scripts.benchmarks.harness import FAILED, Contender, Cost, costs
from scripts.benchmarks.plan import WORKLOADS, Workload
from scripts.context_options import tokens
from scripts.evaluate import table
from scripts.failures import exit_code_of
from scripts.machine import machine

PACKAGES = ("tensorflow", "keras", "torch", "rotary-embedding-torch", "transformers", "keras-hub")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    rows = []
    for workload, title, sizes, contenders in options.cases:
        print(f"{title}: {', '.join(contender.name for contender in contenders)}", file=sys.stderr)
        measured = costs(contenders, sizes, repeats=options.repeats)
        rows += rows_of(workload, title, sizes, contenders, measured)
    if options.json:
        print(json.dumps({"machine": machine(), "packages": versions(), "rows": rows}, indent=1))
    else:
        measured = [row for row in rows if "problem" not in row]
        print(
            ", ".join([machine(), *versions()]),
            *([table(list(map(shown, measured)))] if measured else []),
            sep="\n",
        )
        for row in rows:
            if "problem" in row:
                print(f"not measured: {row['work']}: {row['by']}: {row['problem']}")
    return int(any(row.get("problem") == FAILED for row in rows))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=WORKLOADS)
    parser.add_argument("--repeats", type=tokens, default=5, help="rounds (default %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        help="of the names and the work in the table, those with a TEXT in them",
    )
    parser.add_argument(
        "--set",
        type=size,
        nargs="+",
        default=[],
        metavar="NAME=NUMBER[,...]",
        help="other sizes: length=512,1024",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    workloads, changes = WORKLOADS[options.what], dict(options.set)
    known = {name: None for workload in workloads for name in workload.numbers}
    for name in changes:
        if name not in known:
            parser.error(f"argument --set: {options.what} has {', '.join(known) or 'no sizes'}; got {name!r}")
    options.cases = list(chosen(workloads, changes, options.only or [""]))
    if not options.cases:
        texts = " or ".join(map(repr, options.only))
        parser.error(f"argument --only: nothing that {options.what} measures has {texts} in its name")
    return options


def size(text: str) -> tuple[str, list[int]]:
    """`length=512,1024`."""
    name, _, numbers = text.partition("=")
    return name, [tokens(number) for number in numbers.split(",")]


def chosen(workloads: Sequence[Workload], changes: dict, texts: list[str]) -> Iterator[tuple]:
    for workload in workloads:
        for title, sizes in workload.cases(changes):
            named = [(f"{title}: {contender.name}", contender) for contender in workload.contenders]
            contenders = [contender for name, contender in named if any(text in name for text in texts)]
            if contenders:
                yield workload, title, sizes, contenders


def rows_of(
    workload: Workload, title: str, sizes: dict, contenders: list[Contender], measured: list[Cost | str]
) -> Iterator[dict]:
    """Rows of the table; the ratio is that of the time to the first one's."""
    column, value = workload.column
    first = next((cost.seconds for cost in measured if isinstance(cost, Cost)), None)
    for contender, cost in zip(contenders, measured, strict=True):
        row = {"work": title, "by": contender.name}
        if isinstance(cost, str):
            yield row | {"problem": cost}
            continue
        yield row | {
            "milliseconds": cost.seconds * 1e3,
            "first_quartile": cost.first_quartile * 1e3,
            "third_quartile": cost.third_quartile * 1e3,
            "ratio": cost.seconds / first,
            "peak_megabytes": round(cost.peak_bytes / 1e6),
            column: value(sizes, cost.seconds),
        }


def shown(row: dict) -> dict:
    """With three digits of each number."""
    return {name: digits(value) if isinstance(value, float) else value for name, value in row.items()}


def digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def versions() -> list[str]:
    """Of the packages that take part."""
    installed = {
        distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()
    }
    return [f"{name} {installed[name]}" for name in PACKAGES if name in installed]


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
