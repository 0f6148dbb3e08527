"""Losses as pictures: the curve of a run, and by window of context."""

import itertools
from pathlib import Path

from matplotlib.figure import Figure


def plot_loss(rows: list[dict], path: Path, *, title: str) -> None:
    """Draws training and validation loss, in nats per token, against tokens seen.

    Args:
        rows: of metrics.jsonl.
        path: of the PNG file.
        title: above the plot.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (
        ("loss", "training batch", {"alpha": 0.5, "linewidth": 1}),
        ("validation_loss", "validation", {"marker": "o", "markersize": 4}),
    ):
        points = [(row["tokens"] / 1e6, row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="million tokens", ylabel="loss, nats per token", title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)


def plot_context(curves: list[dict], path: Path, *, trained_lengths: list[int]) -> None:
    """Draws losses, in nats per token, against the window of context, with their standard errors.

    Args:
        curves: each of `label`, and `windows`, `losses` and `errors` in step; an error may be NaN.
        path: of the PNG file.
        trained_lengths: of the models, in tokens; a vertical line each.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for length in trained_lengths:
        axes.axvline(length, color="grey", linestyle="--", linewidth=1)
    for curve, marker in zip(curves, itertools.cycle("os^vDXP*"), strict=False):
        axes.errorbar(
            curve["windows"],
            curve["losses"],
            yerr=curve["errors"],
            label=curve["label"],
            marker=marker,
            markersize=5,
            capsize=3,
            alpha=0.8,
        )
    windows = sorted({window for curve in curves for window in curve["windows"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(windows, [f"{window:,}" for window in windows])
    axes.minorticks_off()
    trained = ", ".join(f"{length:,}" for length in trained_lengths)
    axes.set(
        xlabel=f"window of context, tokens (dashed: trained on {trained})",
        ylabel="loss, nats per token",
        title="Held-out loss by window; bars are one standard error",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
