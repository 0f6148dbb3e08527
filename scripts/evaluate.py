"""Measures trained models on all their held-out data: `python -m scripts.evaluate outputs/lm`.

With --windows 128 256 512, of language models: on the same held-out bytes behind that many tokens of context
each. With --image-size 8 12 16, of vision transformers: on images of these sizes.
"""

import argparse
import json
import sys
from pathlib import Path

from runs.arguments import add_window_options, settle_window_options
from runs.devices import import_tensorflow
from system.command import run_command
from system.text import format_table


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.windows:
        return measure_windows(options)
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
        metavar="SIZE",
        help="of vision transformers: accuracy at these sizes, N or HEIGHTxWIDTH, and resolution.png; images "
        "are resized to fill the size, and the middle is cut out of another shape",
    )
    add_window_options(parser)
    options = parser.parse_args(arguments)
    if options.windows and options.image_size:
        parser.error(
            "--windows is for language models, --image-size for vision transformers: give one of them"
        )
    settle_window_options(parser, options)
    return options


def measure_windows(options: argparse.Namespace) -> None:
    """Loss by window of context, as a table or JSON, a CSV file if asked for, and a picture."""
    import_tensorflow()

    from runs.window_cases import load_run
    from runs.windows import TABLE_COLUMNS, evaluate_windows, write_files

    rows = evaluate_windows(
        [load_run(path) for path in options.run_directories],
        options.windows,
        stride=options.stride,
        max_targets=options.targets,
        scalings=options.zero_shot,
        attention=options.attention,
    )
    shown = [{name: row[name] for name in TABLE_COLUMNS} for row in rows]
    print(json.dumps(rows, indent=1) if options.json else format_table(shown))
    write_files(rows, csv_path=options.csv, plot_path=options.plot)


def image_size(text: str) -> tuple[int, int]:
    """`8` or `8x12`."""
    sides = tuple(int(side) if side.isdecimal() else 0 for side in text.split("x"))
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"must be pixels, such as 16 or 16x24, got {text!r}")
    return sides[0], sides[-1]


def evaluate_sizes(paths: list[Path], sizes: list[tuple[int, int]]) -> tuple[list[dict], list[Path]]:
    """The rows of the table, and the picture of them."""
    from runs.resolution import accuracy_by_size, plot

    rows = accuracy_by_size(paths, sizes)
    return rows, [plot(rows, paths)]


def evaluate_run(path: Path) -> dict:
    """What is measured of a run on its own held-out split."""
    from tqdm import tqdm

    from runs.load import load_model, load_task, note_other_data
    from system.terminal import print_error
    from training.evaluation import make_evaluator

    model, config, manifest = load_model(path)
    task = load_task(config, report=print_error, recorded=True, facts=manifest)
    note_other_data(path, config, manifest, fingerprint=task.facts["data_fingerprint"])
    evaluate = make_evaluator(model, task.measure, compile_mode=config.compile)
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
    return "\n\n".join(map(format_table, by_columns.values()))


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
