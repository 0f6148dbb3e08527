"""Figures on longer contexts and images."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from rope.axial import AxialRotaryEmbedding, MixedRotaryEmbedding
from rope.embedding import RotaryEmbedding
from rope.frequencies import language_frequencies
from rope.positions import grid_positions
from rope.rotation import rotary_angles
from rope.scaling import scale_frequencies, with_original_length
from runs.figure_style import BLUE, FAINT, INK, ORANGE, SIGNED, subplots


def interpolation() -> Figure:
    """Angles of a fast, a middle and a slow pair at trained distances and at longer ones."""
    length, longer, frequencies = 16, 32, language_frequencies(8, theta=100.0)
    title = f"Angles of {length} trained positions and of {longer} positions"
    figure, grid = subplots(5.6, title, 2, 3)
    rows = {"no scaling": frequencies, "divided by 2": frequencies / 2}
    columns = {"a fast pair": 0, "a pair between": 2, "the slowest pair": 3}
    for row, (scheme, scaled) in zip(grid, rows.items(), strict=True):
        for axes, (name, pair) in zip(row, columns.items(), strict=True):
            trained = rotary_angles(tf.range(length), frequencies[pair : pair + 1]).numpy()[:, 0]
            needed = rotary_angles(tf.range(longer), scaled[pair : pair + 1]).numpy()[:, 0]
            axes.add_patch(Circle((0, 0), 1, fill=False, color=FAINT))
            axes.plot(np.cos(trained), np.sin(trained), "o", color=BLUE, markersize=5, label="trained")
            outer = {"color": ORANGE, "markersize": 4.5, "label": f"needed for {longer} positions"}
            axes.plot(1.22 * np.cos(needed), 1.22 * np.sin(needed), "o", markerfacecolor="none", **outer)
            axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", title=f"{scheme}, {name}")
            axes.axis("off")
            coverage = "some angles\nuntrained" if needed[-1] > trained[-1] * 1.05 else "all angles\ntrained"
            if trained[-1] >= 2 * np.pi:
                coverage = "all directions\ntrained"
            axes.text(0, 0, coverage, ha="center", va="center", fontsize=8.5)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def scalings() -> Figure:
    """Scaled over unscaled frequencies, by pair, from 256 to 1,024 tokens."""
    length, factor, frequencies = 256, 4.0, language_frequencies(64)
    figure, axes = subplots(4.2, "Frequencies for 1,024 tokens of a model trained on 256")
    scaled_by_name = scale_by_each(frequencies, length=length, factor=factor)
    notes = {"linear": " (positional interpolation)", "dynamic": " (for 1,024 tokens)"}
    for (name, scaled), marker in zip(scaled_by_name.items(), "os^v", strict=True):
        label = name + notes.get(name, "")
        axes.plot(scaled.frequencies / frequencies, marker=marker, markersize=4, label=label)
    first_slow, last = np.argmax(2 * np.pi / frequencies > length), len(frequencies) - 1
    axes.axvspan(first_slow - 0.5, last + 0.5, color=FAINT, alpha=0.15, linewidth=0)
    slow = f"no full turn in {length} tokens:\nuntrained angles if not scaled"
    axes.text(last, 1.03, slow, ha="right", va="bottom", fontsize=9)
    axes.axhline(1 / factor, color=INK, linestyle="--", linewidth=1)
    axes.text(-0.5, 1 / factor - 0.02, "on or below: trained angles only", va="top", fontsize=9)
    axes.set(xlabel="pair, from fast to slow", ylabel="scaled / unscaled frequency", ylim=(0, 1.2))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid()
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.68))
    return figure


def scale_by_each(frequencies: np.ndarray, *, length: int, factor: float) -> dict:
    """Frequencies and attention factor of each scaling, from `length` to `factor` times as many tokens."""
    scaled = {}
    for name in ("linear", "ntk", "dynamic", "yarn"):
        scaling = with_original_length({"rope_type": name, "factor": factor}, length)
        target_length = round(factor * length) if name == "dynamic" else None
        scaled[name] = scale_frequencies(frequencies, scaling, theta=10_000.0, target_length=target_length)
    return scaled


def grid() -> Figure:
    """Angles of some pairs over a grid, and the score of equal patches with the one in the middle."""
    size, head_dim, theta, chosen = 15, 16, 10.0, {0: "rows", 3: "rows", 4: "columns", 7: "columns"}
    axial = AxialRotaryEmbedding([RotaryEmbedding(head_dim // 2, theta=theta)] * 2)
    embeddings = {"axial": axial, "mixed": MixedRotaryEmbedding(1, head_dim, theta=theta)}
    title = f"Rotation over {size} x {size} patches: cosine of the angle between a patch and the middle"
    figure, panels = subplots(3.5, title, 2, len(chosen) + 1, sharex=True, sharey=True)
    for row, (name, embedding) in zip(panels, embeddings.items(), strict=True):
        angles = np.reshape(embedding.angles(grid_positions(size, size)), (size, size, -1))
        cosines = np.cos(angles - angles[size // 2, size // 2])  # (size, size, pairs)
        label = "pair {}: {}" if name == "axial" else "pair {}"
        maps = {label.format(*item): cosines[..., item[0]] for item in chosen.items()}
        maps["all 8: the score"] = cosines.mean(axis=-1)
        for axes, (title, values) in zip(row, maps.items(), strict=True):
            picture = axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1)
            ticks = 0, size // 2, size - 1
            axes.set(title=title, xticks=ticks, yticks=ticks)
        row[0].set_ylabel(f"{name}\nrow of the patch")
    for axes in panels[-1]:
        axes.set_xlabel("column")
    figure.colorbar(picture, ax=panels, shrink=0.8, label="cosine")
    return figure
