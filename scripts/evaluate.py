"""Measures trained language models on all their held-out text: `python -m scripts.evaluate outputs/lm`.

With --windows 128 256 512, on the same held-out bytes behind that many tokens of context each.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from scripts.context_options import add_window_options, settle_window_options
from scripts.failures import exit_code_of
from scripts.startup import import_tensorflow


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.windows:
        return measure_windows(options)
    import_tensorflow()
    results = [evaluate_run(path) for path in options.run_directories]
    print(json.dumps(results, indent=1) if options.json else table(results))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluate", description=__doc__)
    parser.add_argument("run_directories", type=Path, nargs="+", metavar="run_directory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_window_options(parser)
    options = parser.parse_args(arguments)
    settle_window_options(parser, options)
    return options


def measure_windows(options: argparse.Namespace) -> None:
    """Loss by window of context, as a table or JSON, a CSV file if asked for, and a picture."""
    import_tensorflow()

    from scripts.context import TABLE_COLUMNS, evaluate_windows, write_files
    from scripts.context_cases import load_run

    rows = evaluate_windows(
        [load_run(path) for path in options.run_directories],
        options.windows,
        stride=options.stride,
        max_targets=options.targets,
        scalings=options.zero_shot,
        attention=options.attention,
    )
    shown = [{name: row[name] for name in TABLE_COLUMNS} for row in rows]
    print(json.dumps(rows, indent=1) if options.json else table(shown))
    write_files(rows, csv_path=options.csv, plot_path=options.plot)


def evaluate_run(path: Path) -> dict:
    """Loss of a run on its own held-out split, at its own context length."""
    from tqdm import tqdm

    from data.batches import evaluation_batches
    from data.text import check_length, load_text
    from scripts.loading import load_model, print_error
    from training.evaluation import make_evaluator

    model, config, manifest = load_model(path)
    corpus = load_text(config.data, report=print_error)
    if corpus.fingerprint != manifest["data_fingerprint"]:
        print_error(f"note: {path} was trained on other text than this machine's {config.data.source}.")
    check_length(corpus, config.context_length)
    batches = evaluation_batches(
        corpus.validation, batch_size=config.training.batch_size, length=config.context_length
    )
    evaluate = make_evaluator(model, compile_mode=config.training.compile)
    loss = evaluate(tqdm(batches, desc=str(path), disable=None))
    return {
        "run": str(path),
        "step": manifest["step"],
        "parameters": model.count_params(),
        "context_length": config.context_length,
        "targets": len(corpus.validation) - 1,
        "nats_per_token": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2),
    }


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
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
