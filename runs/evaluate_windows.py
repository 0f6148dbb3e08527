"""Loss by context window: the same held-out tokens are predicted from windows of increasing length.

The sliding window of Press et al. 2021 (arXiv 2108.12409), by which arXiv 2306.15595 evaluates positional
interpolation. Zero-shot: the weights of a run under scalings that it was not trained with.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import tensorflow as tf

from data.config import PasskeyConfig
from data.corpus import load_text
from data.tokenizer import Tokenizer
from data.window_batches import Targets, choose_targets, window_batches
from models.config import TransformerLMConfig
from runs import extended_context as extended
from runs.extended_context import Case
from runs.figure_style import FAINT, MARKERS, PAGE_INCHES, picture
from runs.load import TrainedRun, load_run, note_other_data
from system.errors import RunError
from system.text import print_error

# Columns left out of the table; the last three are the same in all rows.
JSON_COLUMNS = ["step", "context_length", "factor", "attention", "stride", "targets", "bytes", "documents"]


def load_run_with_text(path: Path, *, step: int | str = "latest") -> TrainedRun:
    """Raises RunError if it is not a run on text."""
    run = load_run(path, of=TransformerLMConfig, step=step)
    if isinstance(run.config.data, PasskeyConfig):
        raise RunError(f"{path} was trained on passkeys; scripts.passkey measures how many it finds")
    corpus = load_text(run.config.data, tokenizer=run.tokenizer, report=print_error)
    note_other_data(run, corpus.fingerprint)
    return replace(run, corpus=corpus)


def evaluate_windows(
    runs: list[TrainedRun],
    windows: list[int],
    *,
    stride: int,
    max_targets: int,
    scalings: list[str],
    attention: str,
) -> list[dict]:
    """Row for each run, each of `none` and `scalings`, and each window; see `make_row`.

    The `windows` are context lengths in ascending order. One forward pass predicts `stride` targets, at most
    the shortest window. The `scalings` are applied without training. Raises a CommandError before any
    evaluation, if a run cannot be evaluated.
    """
    for run in runs:
        extended.check_run(run, windows, scalings=scalings)
        if run.corpus.fingerprint != runs[0].corpus.fingerprint:
            raise RunError(
                f"{runs[0].path} and {run.path} hold out different text or tokens: evaluate them one by one"
            )
    tokens, tokenizer = runs[0].corpus.validation, runs[0].corpus.tokenizer
    limits = {"window": windows[-1], "stride": stride, "max_targets": max_targets}
    targets = choose_targets(tokens, separator=tokenizer.separator, **limits)
    counts, num_bytes = sum_by_document(targets, targets.counts), count_bytes(targets, tokenizer)

    def prepare(case):
        batches = window_batches(targets, window=case.length, batch_size=case.batch_size)
        return batches, make_window_evaluator(case, attention)

    cases = extended.make_cases(runs, scalings, lengths=dict.fromkeys(runs, windows))
    losses = extended.evaluate_cases(cases, prepare)  # (blocks,) each, and rows that fill the last batch
    sums = [sum_by_document(targets, values[: len(targets)]) for values in losses]
    return [
        make_row(case, case_sums, counts, first=sums[0], num_bytes=num_bytes)
        | {"attention": attention, "stride": stride}
        for case, case_sums in zip(cases, sums, strict=True)
    ]


def make_window_evaluator(
    case: Case, attention: str
) -> Callable[[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Function from a batch of `window_batches` to the summed loss of each row in nats, (batch,)."""
    model = extended.make_case_model(case)
    # Half the trained length, as in arXiv 2212.10554.
    block = case.run.trained_length // 2 if attention == "blockwise-causal" else None

    @tf.function(autograph=False, jit_compile=case.run.config.compile == "xla")
    def losses(inputs, targets):
        logits = model(inputs, attention_block=block, last=targets.shape[1])  # (batch, stride, classes)
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
        return tf.where(targets >= 0, values, 0.0)  # (batch, stride)

    return lambda batch: losses(*map(tf.constant, batch)).numpy().sum(axis=1, dtype=np.float64)


def sum_by_document(targets: Targets, values: np.ndarray) -> np.ndarray:
    """Sums of the values of blocks, (blocks,), over each document, (documents,)."""
    _, documents = np.unique(targets.documents, return_inverse=True)
    return np.bincount(documents, weights=values)


def mean_over_documents(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float | None]:
    """Mean over the targets of all documents, and its standard error with documents as the sampling unit.

    The targets of one document are correlated, so that they are not independent samples. The mean is a ratio
    of the `sums` over the targets of each document, (documents,), and their `counts`; its error is that of
    the linearized ratio (Cochran 1977, Sampling Techniques, 2.11), and None for a single document.
    """
    mean = sums.sum() / counts.sum()
    if len(sums) < 2:
        return float(mean), None
    residuals = sums - mean * counts  # (documents,)
    scale = len(sums) / (len(sums) - 1) / counts.sum() ** 2
    return float(mean), math.sqrt(scale * (residuals**2).sum())


def count_bytes(targets: Targets, tokenizer: Tokenizer) -> int:
    """Bytes of text of all targets."""
    sizes = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    spans = zip(targets.ends, targets.counts, strict=True)
    return sum(sizes[token] for end, count in spans for token in targets.tokens[end - count + 1 : end + 1])


def make_row(case: Case, sums: np.ndarray, counts: np.ndarray, *, first: np.ndarray, num_bytes: int) -> dict:
    """Results of a case; `difference` is its loss minus that of the first case, on the same targets."""
    mean, error = mean_over_documents(sums, counts)
    difference, difference_error = mean_over_documents(sums - first, counts)
    losses = {"nats_per_token": mean, "standard_error": error, "perplexity": math.exp(mean)}
    losses |= {"bits_per_byte": float(sums.sum()) / (num_bytes * math.log(2))}
    losses |= {"difference": difference, "difference_error": difference_error}
    sizes = {"targets": int(counts.sum()), "bytes": num_bytes, "documents": len(counts)}
    return {**case.facts, "window": case.length, **losses, **sizes}


def table_rows(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in JSON_COLUMNS} for row in rows]


def plot_rows(rows: list[dict], path: Path) -> None:
    """Draws a curve for each run and scaling."""
    columns = itemgetter("window", "nats_per_token", "standard_error")
    trained_lengths = sorted({row["context_length"] for row in rows})
    lengths = ", ".join(f"{length:,}" for length in trained_lengths)
    ticks = sorted({row["window"] for row in rows})
    with picture(path, PAGE_INCHES, 4.5) as figure:
        axes = figure.subplots()
        for length in trained_lengths:
            axes.axvline(length, color=FAINT, linestyle="--", linewidth=1)
        for number, group in enumerate(extended.group_rows(rows, "run", "zero_shot")):
            windows, losses, errors = np.array(list(map(columns, group)), float).T  # NaN (None): no bar
            style = {"marker": MARKERS[number % len(MARKERS)], "markersize": 5, "capsize": 3, "alpha": 0.8}
            axes.errorbar(windows, losses, yerr=errors, label=extended.label_of(group[0]), **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{window:,}" for window in ticks])
        axes.minorticks_off()
        axes.set(title="Held-out loss by window; bars are one standard error", ylabel="loss, nats per token")
        axes.set_xlabel(f"window of context, tokens (dashed: trained length {lengths})")
        axes.grid()
        figure.legend(loc="outside right upper", fontsize="small")
