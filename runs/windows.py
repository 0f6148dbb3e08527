"""Loss by window of context: the same held-out bytes behind more and more of what precedes them.

The sliding window of Press et al. 2021 (arXiv 2108.12409), as positional interpolation is evaluated in
arXiv 2306.15595. Zero-shot, the weights of a run are evaluated under scalings that it never saw.
"""

import csv
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data.window_batches import Targets, WindowBatches, choose_targets
from runs.plots import plot_windows
from runs.window_cases import Case, Run, attention_block, check_run, evaluator_of, shared_text
from runs.window_cost import batches_of, cost_of, work_of
from system.errors import RunError, reason
from system.terminal import print_error
from training.window_losses import mean_over_documents

TABLE_COLUMNS = (
    "run",
    "zero_shot",
    "window",
    "nats_per_token",
    "standard_error",
    "perplexity",
    "bits_per_byte",
    "difference",
    "difference_error",
    "targets",
    "documents",
)
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def evaluate_windows(
    runs: list[Run],
    windows: list[int],
    *,
    stride: int,
    max_targets: int,
    scalings: list[str],
    attention: str,
) -> list[dict]:
    """A row for each run, each of `none` and `scalings`, and each window; see `row_of`.

    Args:
        runs: whose held-out text is the same.
        windows: in tokens, ascending.
        stride: targets that one pass predicts, at most the shortest window.
        max_targets: about how many targets to predict in all.
        scalings: types of `RopeScalingConfig` to apply without training.
        attention: `full` or `blockwise-causal`.

    Raises:
        RunError, DataError: for what cannot be evaluated, before anything is.
    """
    for run in runs:
        check_run(run, windows, scalings=scalings, attention=attention)
    tokens = shared_text(runs)
    targets = choose_targets(tokens, window=windows[-1], stride=stride, max_targets=max_targets)
    variants = [(run, scaling) for run in runs for scaling in ("none", *scalings)]
    cases = [Case(run, scaling, window) for run, scaling in variants for window in windows]
    measured = list(dict.fromkeys(case.measured for case in cases))
    sums, counts = measure(measured, targets, attention=attention)
    facts = {"attention": attention, "stride": stride}
    return [row_of(case, sums[case.measured], counts, first=sums[cases[0]]) | facts for case in cases]


def measure(
    cases: list[Case], targets: Targets, *, attention: str
) -> tuple[dict[Case, np.ndarray], np.ndarray]:
    """Of each case, the sums of its losses over each document; and how many targets each document has."""
    _, documents = np.unique(targets.documents, return_inverse=True)
    batches = {case: batches_of(case, targets) for case in cases}
    try:
        print_error(cost_of(batches))
        total = sum(len(batches[case]) * work_of(case, batches[case]) for case in cases)
        with tqdm(total=total, bar_format=BAR, disable=None) as progress:
            sums = {}
            for case in cases:
                losses = losses_of_blocks(case, batches[case], attention=attention, progress=progress)
                sums[case] = np.bincount(documents, weights=losses[: len(targets)])
    except tf.errors.ResourceExhaustedError as error:
        raise RunError(f"these windows do not fit in memory ({reason(error)}). Use shorter ones") from error
    return sums, np.bincount(documents, weights=targets.counts)


def losses_of_blocks(case: Case, batches: WindowBatches, *, attention: str, progress: tqdm) -> np.ndarray:
    """The summed loss of each row of all batches, float64."""
    progress.set_description(f"{case.run.path} {case.scaling} {case.window:,}")
    evaluate, block = evaluator_of(case), attention_block(case.run, attention)
    losses = []
    for inputs, targets in batches:
        of_batch = evaluate(inputs, targets, attention_block=block)
        losses.append(of_batch.sum(axis=1, dtype=np.float64))
        progress.update(work_of(case, batches))
    return np.concatenate(losses)


def row_of(case: Case, sums: np.ndarray, counts: np.ndarray, *, first: np.ndarray) -> dict:
    """What there is to say of a case; `difference` is to the loss of the first case, on the same targets."""
    mean, error = mean_over_documents(sums, counts)
    difference, difference_error = mean_over_documents(sums - first, counts)
    return {
        "run": str(case.run.path),
        "step": case.run.manifest["step"],
        "context_length": case.run.trained_length,
        "zero_shot": case.scaling,
        "factor": case.factor,
        "window": case.window,
        "nats_per_token": mean,
        "standard_error": known(error),
        "perplexity": math.exp(mean),
        "bits_per_byte": mean / math.log(2),
        "difference": difference,
        "difference_error": known(difference_error),
        "targets": int(counts.sum()),
        "documents": len(counts),
    }


def known(number: float) -> float | None:
    return None if math.isnan(number) else number


def write_files(rows: list[dict], *, csv_path: Path | None, plot_path: Path) -> None:
    for path, write in ((csv_path, write_csv), (plot_path, write_plot)):
        if path is None:
            continue
        try:
            write(rows, path)
        except OSError as error:
            raise RunError(f"cannot write {path} ({reason(error)})") from error
        print_error(f"wrote {path}")


def write_csv(rows: list[dict], path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_plot(rows: list[dict], path: Path) -> None:
    paths = {row["run"] for row in rows}
    is_short = len({Path(path).name for path in paths}) == len(paths)
    curves: dict[str, list[tuple]] = {}
    for row in rows:
        name = Path(row["run"]).name if is_short else row["run"]
        label = name if row["zero_shot"] == "none" else f"{name}, {row['zero_shot']}"
        error = math.nan if row["standard_error"] is None else row["standard_error"]
        curves.setdefault(label, []).append((row["window"], row["nats_per_token"], error))
    plot_windows(curves, path, trained_lengths=sorted({row["context_length"] for row in rows}))
