"""The curves of a run, losses by window of context, and keys found by depth, as pictures."""

import itertools
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LOSSES = (
    ("loss", "training batch", {"alpha": 0.5, "linewidth": 1}),
    ("validation_loss", "held out", {"marker": "o", "markersize": 4}),
)
ACCURACIES = (("accuracy", "held out", {"marker": "o", "markersize": 4}),)


def plot_loss(rows: list[dict], path: Path, *, unit: str, title: str) -> None:
    """Draws training and held-out loss, and accuracy where there is one, against what was seen.

    Args:
        rows: of metrics.jsonl.
        path: of the PNG file.
        unit: what the rows count, `tokens` or `images`.
        title: above the plot.
    """
    panels = [(f"loss, nats per {unit.removesuffix('s')}", LOSSES)]
    if any("accuracy" in row for row in rows):
        panels.append(("accuracy", ACCURACIES))
    figure = Figure(figsize=(7, 2.5 + 1.75 * len(panels)), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a run may be called "$5"
    number, scale = ("million", 1e6) if max(row.get(unit, 0) for row in rows) >= 1e6 else ("thousand", 1e3)
    grid = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(grid, panels, strict=True):
        for name, curve_label, style in curves:
            points = [(row[unit] / scale, row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=curve_label, **style)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    grid[-1].set_xlabel(f"{number} {unit}")
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
    draw_context(axes, curves, trained_lengths)
    axes.set(title="Held-out loss by window; bars are one standard error")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)


def plot_context_panels(
    panels: dict[str, list[dict]], path: Path, *, trained_lengths: list[int], bars: str
) -> None:
    """Draws curves as in `plot_context`, panels by title side by side; `bars` says what the errors are."""
    figure = Figure(figsize=(6 * len(panels), 4.5), layout="constrained")
    figure.suptitle(f"Held-out loss by window; bars are {bars}")
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        draw_context(axes, curves, trained_lengths)
        axes.set(title=title)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def draw_context(axes: Axes, curves: list[dict], trained_lengths: list[int]) -> None:
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
    )
    axes.grid(alpha=0.3)


def plot_passkey(panels: list[dict], path: Path) -> None:
    """Draws, a panel a run and scaling, the share of keys found by length of context and depth of the key.

    Args:
        panels: each of `label`, `lengths`, `depths` in 0 to 1, and `accuracies`, (depths, lengths).
        path: of the PNG file.
    """
    widths = [len(panel["lengths"]) for panel in panels]
    rows = max(len(panel["depths"]) for panel in panels)
    figure = Figure(figsize=(2 + 0.9 * sum(widths) + len(panels), 1.5 + 0.35 * rows), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, panel in zip(grid, panels, strict=True):
        picture = axes.imshow(panel["accuracies"], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(panel["lengths"])), [f"{length:,}" for length in panel["lengths"]])
        axes.set_yticks(range(len(panel["depths"])), [f"{depth:.0%}" for depth in panel["depths"]])
        axes.set_title(panel["label"], fontsize="medium")
        axes.set(xlabel="context, tokens", ylabel="depth of the key")
        for row, accuracies in enumerate(panel["accuracies"]):
            for column, accuracy in enumerate(accuracies):
                color = "white" if accuracy > 0.5 else "black"
                axes.text(column, row, f"{accuracy:.0%}", ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(picture, ax=list(grid), label="keys found")
    figure.savefig(path, dpi=120)
