"""Passkey retrieval: share of the keys that a language model finds, by context length and depth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from data.config import PasskeyConfig
from data.passkeys import Passkeys
from runs.arguments import write_rows
from runs.extended_context import (
    Case,
    Run,
    check_run,
    evaluate_cases,
    group_rows,
    label_of,
    make_case_model,
    make_cases,
)
from runs.plots import save, subplots, without_formulas, write_cells
from system.text import format_percent, print_error

# Minimum accuracy at the trained length of a run that has learned the task.
LEARNED_ACCURACY = 0.9


def evaluate_passkeys(
    runs: list[Run], lengths: list[int], *, num_depths: int, examples: int, scalings: list[str]
) -> list[dict]:
    """Row for each run, each of `none` and `scalings`, each length and each depth.

    Each run is also measured at its trained length. Keys and filler are the same at every depth, and in every
    run with as many digits.

    The depths are evenly spaced from the beginning of the text to its question; `examples` is the number of
    texts of each length and depth.

    Raises:
        RunError, DataError: before any evaluation, if a run cannot be evaluated.
    """
    lengths_of = {run: sorted({*lengths, run.trained_length}) for run in runs}
    for run, run_lengths in lengths_of.items():
        Passkeys(run_lengths[0], num_digits(run), run.tokenizer)  # raises DataError if it is too short
        check_run(run, run_lengths, scalings=scalings)
    cases = make_cases(runs, scalings, lengths=lengths_of)
    depths = np.linspace(0, 1, num_depths)
    found = evaluate_cases(cases, lambda case, batch_size: find_keys(case, depths, examples, batch_size))
    return [
        make_row(case, depth, found_at_depth)
        for case, found_in_case in zip(cases, found, strict=True)
        for depth, found_at_depth in zip(depths, found_in_case.reshape(num_depths, examples), strict=True)
    ]


def find_keys(
    case: Case, depths: np.ndarray, examples: int, batch_size: int
) -> tuple[list[slice], Callable[[slice], np.ndarray]]:
    """Batches of the examples at each depth, and whether greedy decoding gives their keys, (batch,) bool.

    One forward pass over the text with the key suffices: as long as greedy decoding is correct, its input is
    the key.
    """
    digits = num_digits(case.run)
    model, passkeys = make_case_model(case), Passkeys(case.length, digits, case.run.tokenizer)
    numbers, places = np.tile(np.arange(examples), len(depths)), np.repeat(depths, examples)

    @tf.function(jit_compile=case.run.config.compile == "xla")
    def predict(inputs):
        return tf.argmax(model(inputs, last=digits), axis=-1, output_type=tf.int32)  # (batch, digits)

    def find(rows):
        inputs, targets = passkeys.held_out(numbers[rows], places[rows])
        return (predict(tf.constant(inputs)).numpy() == targets[:, -digits:]).all(axis=1)

    return [slice(start, start + batch_size) for start in range(0, len(numbers), batch_size)], find


def num_digits(run: Run) -> int:
    """Digits of the keys that the run was trained on, or the default."""
    return run.config.data.digits if isinstance(run.config.data, PasskeyConfig) else PasskeyConfig().digits


def make_row(case: Case, depth: float, found: np.ndarray) -> dict:
    values = {"depth": float(depth), "examples": len(found), "accuracy": float(found.mean())}
    return {**case.facts, "digits": num_digits(case.run), "length": case.length, **values}


def mean_accuracy(rows: list[dict]) -> float:
    return round(float(np.mean([row["accuracy"] for row in rows])), 9)  # 0.9 is not below 0.9


def table_rows(rows: list[dict]) -> list[dict]:
    """Row for each run, scaling and length, with the accuracy at each depth and over all of them."""
    return [
        {
            **{column: group[0][column] for column in ("run", "context_length", "zero_shot", "length")},
            **{f"{row['depth']:.0%}": f"{row['accuracy']:.0%}" for row in group},
            "all": f"{mean_accuracy(group):.1%}",
        }
        for group in group_rows(rows, "run", "zero_shot", "length")
    ]


def plot_rows(rows: list[dict], path: Path) -> None:
    """Draws the runs that have learned the task and reports the others; removes an outdated picture."""
    panels = []
    for run_rows in group_rows(rows, "run"):
        run, length = run_rows[0]["run"], run_rows[0]["context_length"]
        accuracy = mean_accuracy([row for row in run_rows if row["length"] == length])
        if accuracy < LEARNED_ACCURACY:
            print_error(
                f"{run} has not learned the task at its trained length {length:,}: it finds "
                f"{format_percent(accuracy)} of the keys there, below {format_percent(LEARNED_ACCURACY, 0)}. "
                "No heat map is drawn"
            )
        else:
            panels += group_rows(run_rows, "zero_shot")
    if panels:
        write_rows(plot_panels, panels, path)
    elif path.exists():
        path.unlink()
        print_error(f"removed {path}, which showed an earlier measurement")


@without_formulas
def plot_panels(panels: list[list[dict]], path: Path) -> None:
    """Draws the share of keys found by context length and depth, one heat map for the rows of each panel."""
    grids = [group_rows(rows, "length") for rows in panels]
    widths = [len(groups) for groups in grids]
    width, height = 2 + 0.9 * sum(widths) + len(grids), 1.5 + 0.35 * len(grids[0][0])  # inches
    figure, axes_grid = subplots(width, height, "", 1, len(grids), squeeze=False, width_ratios=widths)
    for axes, groups in zip(axes_grid[0], grids, strict=True):
        shares = np.transpose([[row["accuracy"] for row in group] for group in groups])  # (depths, lengths)
        heat_map = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        write_cells(axes, shares, [[format_percent(share, 0) for share in row] for row in shares])
        axes.set_xticks(range(len(groups)), [f"{group[0]['length']:,}" for group in groups])
        axes.set_yticks(range(len(groups[0])), [format_percent(row["depth"], 0) for row in groups[0]])
        title = f"{label_of(groups[0][0])}, trained at {groups[0][0]['context_length']:,}"
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel="context, tokens", ylabel="depth of the key")
    figure.colorbar(heat_map, ax=axes_grid, label="keys found")
    save(figure, path, dpi=120)
