"""Measures trained models on all their held-out data: `python -m scripts.evaluate outputs/lm`."""

import argparse
import json
import sys
from pathlib import Path

from scripts.failures import exit_code_of
from scripts.startup import import_tensorflow


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    import_tensorflow()
    if options.image_size:
        results, written = evaluate_sizes(options.run_directories, options.image_size)
    else:
        results, written = [evaluate_run(path) for path in options.run_directories], []
    print(json.dumps(results, indent=1) if options.json else tables(results))
    for path in written:
        print(f"wrote {path}", file=sys.stderr)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluate", description=__doc__)
    parser.add_argument("run_directories", type=Path, nargs="+", metavar="run_directory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--image-size",
        type=image_size,
        nargs="+",
        metavar="N",
        help="of vision transformers: accuracy at these sizes, N or HEIGHTxWIDTH, and resolution.png",
    )
    return parser.parse_args(arguments)


def image_size(text: str) -> tuple[int, int]:
    """`8` or `8x12`."""
    sides = tuple(int(side) if side.isdecimal() else 0 for side in text.split("x"))
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"must be pixels, such as 16 or 16x24, got {text!r}")
    return sides[0], sides[-1]


def evaluate_sizes(paths: list[Path], sizes: list[tuple[int, int]]) -> tuple[list[dict], list[Path]]:
    """The rows of the table, and the picture of them."""
    from scripts.resolution import accuracy_by_size, plot

    rows = accuracy_by_size(paths, sizes)
    return rows, [plot(rows, paths)]


def evaluate_run(path: Path) -> dict:
    """What is measured of a run on its own held-out split."""
    from tqdm import tqdm

    from scripts.loading import load_model, load_task, print_error
    from training.evaluation import make_evaluator

    model, config, manifest = load_model(path)
    task = load_task(config, report=print_error, facts=manifest)
    if task.facts["data_fingerprint"] != manifest["data_fingerprint"]:
        print_error(
            f"note: {path} was trained on other {task.data_word} than this machine's {config.data.source}."
        )
    evaluate = make_evaluator(model, task.measure, compile_mode=config.training.compile)
    means = evaluate(tqdm(task.evaluation_batches(), desc=str(path), disable=None))
    return {
        "run": str(path),
        "step": manifest["step"],
        "parameters": model.count_params(),
        **task.results(means),
    }


def tables(results: list[dict]) -> str:
    """One table for the runs of each task."""
    by_columns: dict[tuple, list[dict]] = {}
    for result in results:
        by_columns.setdefault(tuple(result), []).append(result)
    return "\n\n".join(map(table, by_columns.values()))


def table(results: list[dict]) -> str:
    headers = [name.replace("_", " ") for name in results[0]]
    rows = [[cell(value) for value in result.values()] for result in results]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in [headers, *rows]
    ]
    return "\n".join(lines)


def cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
