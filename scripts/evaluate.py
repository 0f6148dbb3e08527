"""Evaluates trained models on all their held-out data: `python -m scripts.evaluate outputs/lm`.

Language models with --windows 128 256 512: loss of the same held-out bytes for each context length. Vision
transformers with --image-size 8 12 16: accuracy on images of these sizes.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/evaluate.py`

from runs.arguments import (
    add_step_option,
    add_zero_shot_option,
    default_picture,
    image_size,
    positive_integer,
    writing,
)
from system.command import quiet_imports, run_command
from system.text import format_count, format_table, print_error, print_result

# Takes about a minute and a half on two cores for five windows from 128 to 2,048 and the default model.
DEFAULT_TARGETS = 20_000


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.windows:
        evaluate_windows(options)
    else:
        evaluate_runs(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluate", description=__doc__)
    run = "run, such as outputs/lm"
    parser.add_argument("run_directories", type=Path, nargs="+", metavar="run_directory", help=run)
    add_step_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    sizes = (
        "vision transformers: evaluate at these sizes, N or HEIGHTxWIDTH (without a value 1, 1.5 and 2 times "
        "that of the first run), and draw resolution.png; images are resized, and those of another shape are "
        "cropped to their center"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--image-size", type=image_size, nargs="*", metavar="SIZE", help=sizes)
    windows = (
        "language models: loss by context length in tokens, such as 128 256 512; the column `difference` is "
        "the loss minus that of the first row, on the same bytes"
    )
    kind.add_argument("--windows", type=positive_integer, nargs="+", help=windows)
    group = parser.add_argument_group("options of --windows")
    stride = (
        "targets that one forward pass predicts: each has WINDOW - STRIDE + 1 to WINDOW tokens of context "
        "(default half the smallest window)"
    )
    group.add_argument("--stride", type=positive_integer, help=stride)
    targets = f"approximate number of tokens to predict (default {DEFAULT_TARGETS:,})"
    group.add_argument("--targets", type=positive_integer, help=targets)
    add_zero_shot_option(group)
    attention = (
        "blockwise-causal (arXiv 2212.10554): a token attends to its block of half the trained length and to "
        "the block before it (default full)"
    )
    group.add_argument("--attention", choices=("full", "blockwise-causal"), help=attention)
    options = parser.parse_args(arguments)
    if options.windows is None:
        for name in ("stride", "targets", "zero_shot", "attention"):
            if getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')} has no effect without --windows")
        return options
    options.windows = sorted(set(options.windows))
    smallest = options.windows[0]
    options.stride = options.stride or max(1, smallest // 2)
    options.targets = max(options.targets or DEFAULT_TARGETS, options.stride)
    if options.stride > smallest:
        parser.error(f"--stride must be at most the smallest window {smallest}, got {options.stride}")
    return options


def evaluate_runs(options: argparse.Namespace) -> None:
    with quiet_imports():
        from runs.evaluate_runs import evaluate_runs, plot_sizes

    rows = evaluate_runs(options.run_directories, options.image_size, step=options.step)
    # The runs of one kind of task have the same columns.
    tables = (format_table(list(group)) for _, group in itertools.groupby(rows, key=tuple))
    print_result(json.dumps(rows, indent=1) if options.json else "\n\n".join(tables))
    if options.image_size is not None:
        with writing(default_picture(options.run_directories, "resolution.png")) as path:
            plot_sizes(rows, path)


def evaluate_windows(options: argparse.Namespace) -> None:
    with quiet_imports():
        from runs import evaluate_windows as windows

    rows = windows.evaluate_windows(
        [windows.load_run_with_text(path, step=options.step) for path in options.run_directories],
        options.windows,
        stride=options.stride,
        max_targets=options.targets,
        scalings=options.zero_shot or [],
        attention=options.attention or "full",
    )
    print_result(json.dumps(rows, indent=1) if options.json else format_table(windows.table_rows(rows)))
    print_error(f"{rows[0]['targets']:,} targets in {format_count(rows[0]['documents'], 'document')}")
    with writing(default_picture(options.run_directories, "context.png")) as path:
        windows.plot_rows(rows, path)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
