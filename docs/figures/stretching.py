"""A longer context under trained weights: which angles are new, and what the scalings do about it."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from docs.figures.style import BLUE, FAINT, INK, ORANGE, bare, new_figure
from rope.frequencies import language_frequencies
from rope.rotation import rotary_angles
from rope.scaling import scale


def interpolation(*, dim: int, theta: float, length: int, factor: float) -> Figure:
    """Angles of a fast, a middle and a slow pair at trained distances and at new ones."""
    frequencies, longer = language_frequencies(dim, theta=theta), round(factor * length)
    figure = new_figure(8.5, 5.6, f"Angles that {length} trained positions have shown, and those of {longer}")
    rows = {"no scaling": frequencies, f"interpolation by {factor:g}": frequencies / factor}
    columns = {"a fast pair": 0, "one between": dim // 4, "the slowest pair": dim // 2 - 1}
    grid = figure.subplots(2, 3)
    for row, (scheme, scaled) in zip(grid, rows.items(), strict=True):
        for axes, (name, pair) in zip(row, columns.items(), strict=True):
            seen = rotary_angles(tf.range(length), frequencies[pair : pair + 1]).numpy()[:, 0]
            asked = rotary_angles(tf.range(longer), scaled[pair : pair + 1]).numpy()[:, 0]
            axes.add_patch(Circle((0, 0), 1, fill=False, color=FAINT))
            axes.plot(np.cos(seen), np.sin(seen), "o", color=BLUE, markersize=5, label="seen in training")
            axes.plot(
                1.22 * np.cos(asked),
                1.22 * np.sin(asked),
                "o",
                markerfacecolor="none",
                color=ORANGE,
                markersize=4.5,
                label=f"asked for by {longer} positions",
            )
            axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", title=f"{scheme}, {name}")
            axes.title.set_fontsize(9.5)
            bare(axes)
            axes.text(0, 0, verdict(seen, asked), ha="center", va="center", fontsize=8.5)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def verdict(seen: np.ndarray, asked: np.ndarray) -> str:
    """Whether the angles that are asked for lie within those that were seen."""
    if seen[-1] >= 2 * np.pi:
        return "all of the circle\nwas seen"
    return "beyond what\nwas seen" if asked[-1] > seen[-1] * 1.05 else "within what\nwas seen"


def scalings(*, dim: int, theta: float, length: int, factor: float, scaling: list[str]) -> Figure:
    """Scaled over unscaled frequencies, by pair."""
    frequencies, longer = language_frequencies(dim, theta=theta), round(factor * length)
    figure = new_figure(8.5, 4.2, f"From {length:,} to {longer:,} tokens: what is left of each frequency")
    axes = figure.subplots()
    for (name, scaled), marker in zip(
        scaled_by_name(frequencies, theta, length, factor, scaling).items(), "os^v", strict=False
    ):
        label = (
            name
            if scaled.attention_factor == 1
            else f"{name}, and scores times {scaled.attention_factor**2:.2f}"
        )
        axes.plot(scaled.frequencies / frequencies, marker=marker, markersize=4, label=label)
    slow = np.flatnonzero(2 * np.pi / frequencies > length)
    if slow.size:
        axes.axvspan(slow[0] - 0.5, len(frequencies) - 0.5, color=FAINT, alpha=0.15, linewidth=0)
        axes.text(
            len(frequencies) - 1,
            1.03,
            f"slower than a turn in {length:,}:\nunscaled, new angles",
            ha="right",
            va="bottom",
            fontsize=9,
        )
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.axhline(1 / factor, color=INK, linewidth=0.8, linestyle="--")
    axes.text(0, 1 / factor - 0.02, f"divided by {factor:g}", va="top", fontsize=9)
    axes.set(xlabel="pair, from fast to slow", ylabel="scaled / unscaled frequency", ylim=(0, 1.2))
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.68))
    return figure


def scaled_by_name(frequencies, theta, length, factor, names):
    """Of each scaling, the frequencies and the attention factor."""
    keys = {"linear": {}, "ntk": {}}
    original = {"original_max_position_embeddings": length}
    return {
        name: scale(
            frequencies,
            {"rope_type": name, "factor": factor, **keys.get(name, original)},
            theta=theta,
            target_length=round(factor * length) if name == "dynamic" else None,
        )
        for name in names
    }
