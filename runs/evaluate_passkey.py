"""Passkey retrieval: share of the keys that a language model finds, by context length and depth."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from configs.run_table import shorten
from data.config import PasskeyConfig
from data.passkeys import Passkeys
from runs import extended_context as extended
from runs.extended_context import Case
from runs.figure_style import PAGE_INCHES, SHARES, picture
from runs.load import TrainedRun
from runs.plots import write_cells
from system.text import format_percent

PANELS_PER_ROW, MAX_TITLE_LENGTH = 3, 30


def evaluate_passkeys(
    runs: list[TrainedRun], lengths: list[int], *, num_depths: int, examples: int, scalings: list[str]
) -> list[dict]:
    """Row for each run, each of `none` and `scalings`, each length and each depth.

    Each run is also measured at its trained length. Keys and filler are the same at every depth, and in every
    run with as many digits. The depths are evenly spaced from the beginning of the text to its question;
    `examples` is the number of texts of each length and depth. Raises a CommandError before any evaluation,
    if a run cannot be evaluated.
    """
    lengths_of = {run: sorted({*lengths, run.trained_length}) for run in runs}
    for run, run_lengths in lengths_of.items():
        Passkeys(run_lengths[0], num_digits(run), run.tokenizer)  # raises DataError if it is too short
        extended.check_run(run, run_lengths, scalings=scalings)
    cases = extended.make_cases(runs, scalings, lengths=lengths_of)
    depths = np.linspace(0, 1, num_depths)
    found = extended.evaluate_cases(cases, lambda case: find_keys(case, depths, examples))
    return [
        make_row(case, depth, found_at_depth)
        for case, found_in_case in zip(cases, found, strict=True)
        for depth, found_at_depth in zip(depths, found_in_case.reshape(num_depths, examples), strict=True)
    ]


def find_keys(
    case: Case, depths: np.ndarray, examples: int
) -> tuple[list[slice], Callable[[slice], np.ndarray]]:
    """Batches of the examples at each depth, and whether greedy decoding gives their keys, (batch,) bool.

    One forward pass over the text with the key suffices: as long as greedy decoding is correct, its input is
    the key.
    """
    digits = num_digits(case.run)
    model = extended.make_case_model(case)
    passkeys = Passkeys(case.length, digits, case.run.tokenizer)
    numbers, places = np.tile(np.arange(examples), len(depths)), np.repeat(depths, examples)

    @tf.function(autograph=False, jit_compile=case.run.config.compile == "xla")
    def predict(inputs):
        return tf.argmax(model(inputs, last=digits), axis=-1, output_type=tf.int32)  # (batch, digits)

    def find(rows):
        inputs, targets = passkeys.held_out(numbers[rows], places[rows])
        return (predict(tf.constant(inputs)).numpy() == targets[:, -digits:]).all(axis=1)

    size = case.batch_size
    return [slice(start, start + size) for start in range(0, len(numbers), size)], find


def num_digits(run: TrainedRun) -> int:
    """Digits of the keys that the run was trained on, or the default."""
    return run.config.data.digits if isinstance(run.config.data, PasskeyConfig) else PasskeyConfig().digits


def make_row(case: Case, depth: float, found: np.ndarray) -> dict:
    values = {"depth": float(depth), "examples": len(found), "accuracy": float(found.mean())}
    return {**case.facts, "digits": num_digits(case.run), "length": case.length, **values}


def table_rows(rows: list[dict]) -> list[dict]:
    """Row for each run, scaling and length, with the accuracy at each depth and over all of them."""
    return [
        {
            **{column: group[0][column] for column in ("run", "context_length", "zero_shot", "length")},
            **{f"{row['depth']:.0%}": f"{row['accuracy']:.0%}" for row in group},
            "all": f"{np.mean([row['accuracy'] for row in group]):.1%}",
        }
        for group in extended.group_rows(rows, "run", "zero_shot", "length")
    ]


def plot_rows(rows: list[dict], path: Path) -> None:
    """Draws the share of keys found by context length and depth, a heat map for each run and scaling."""
    panels = [extended.group_rows(group, "length") for group in extended.group_rows(rows, "run", "zero_shot")]
    columns = min(len(panels), PANELS_PER_ROW)
    shape = math.ceil(len(panels) / columns), columns
    with picture(path, PAGE_INCHES, shape[0] * (1 + 0.2 * len(panels[0][0])) + 0.4) as figure:
        figure.suptitle("Share of passkeys found, by tokens of context (columns) and depth (rows)")
        grid = figure.subplots(*shape, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")
        for axes, groups in zip(grid.flat, panels, strict=False):
            first, depths = groups[0][0], [format_percent(row["depth"], 0) for row in groups[0]]
            shares = np.transpose([[row["accuracy"] for row in group] for group in groups])
            axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
            write_cells(axes, shares, [[format_percent(share, 0) for share in row] for row in shares])
            lengths = [group[0]["length"] for group in groups]
            notes = ["\n(trained)" if length == first["context_length"] else "" for length in lengths]
            labels = [f"{length:,}{note}" for length, note in zip(lengths, notes, strict=True)]
            axes.set_xticks(range(len(groups)), labels)
            axes.set_yticks(range(len(depths)), depths)
            axes.tick_params(length=0)
            axes.set_title(shorten(extended.label_of(first), MAX_TITLE_LENGTH))
