"""How much is left of a score at a distance: the bound of the rotation, and the decay of xPos."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from docs.figures.style import BLUE, COLORS, FAINT, ORANGE, new_figure, plain_logs
from rope.embedding import RotaryEmbedding
from rope.frequencies import language_frequencies
from rope.rotation import rotary_angles
from rope.xpos import xpos_scales


def decay(*, dim: int, theta: float, length: int) -> Figure:
    """The mean of the partial sums of section 3.4.3, and the score of a query that equals its key."""
    angles = rotary_angles(tf.range(length), language_frequencies(dim, theta=theta)).numpy()
    figure = new_figure(8.5, 3.8, f"What distance does to scores by itself (dim {dim}, theta {theta:,.0f})")
    bound_axes, score_axes = figure.subplots(1, 2)
    bound_axes.plot(decay_bound(angles), color=BLUE)
    bound_axes.set(title="the bound: partial sums S of e^(i angle)", xlabel="distance", ylim=(0, None))
    bound_axes.set_ylabel(f"mean |S|, {(dim / 2 + 1) / 2:g} at most")
    score_axes.plot(np.cos(angles).mean(axis=1), color=ORANGE)
    score_axes.axhline(0, color=FAINT, linewidth=0.8)
    score_axes.set(
        title="one score: a query equal to its key", xlabel="distance", ylabel="of 1 at distance 0"
    )
    for axes in (bound_axes, score_axes):
        axes.grid()
    return figure


def decay_bound(angles: np.ndarray) -> np.ndarray:
    """(length,) mean over j of |S_j|, the sum of e^(i angle) over the first j of (length, pairs) angles."""
    return abs(np.cumsum(np.exp(1j * angles), axis=1)).mean(axis=1)


def xpos(*, dim: int, theta: float, length: int, scale_base: float) -> Figure:
    """Scales of queries and keys by position, and the score of equal vectors by distance."""
    figure = new_figure(8.5, 4.1, "xPos: queries shrink with their position, keys grow, and the score decays")
    scale_axes, score_axes = figure.subplots(1, 2)
    positions = tf.range(length)
    scales = xpos_scales(positions, dim, scale_base=scale_base, centre=length // 2).numpy()
    for pair, color in ((0, COLORS[0]), (dim // 4, COLORS[1]), (dim // 2 - 1, COLORS[2])):
        scale_axes.semilogy(scales[:, pair], color=color, label=f"queries, pair {pair}")
        scale_axes.semilogy(1 / scales[:, pair], "--", color=color, label=f"keys, pair {pair}")
    scale_axes.set(title="what the features are multiplied by", xlabel="position")
    ones = tf.ones((length, dim))
    for name, rotary in {
        "rotation alone": RotaryEmbedding(dim, theta=theta),
        "with xPos": RotaryEmbedding(
            dim, theta=theta, use_xpos=True, xpos_scale_base=scale_base, xpos_max_length=length
        ),
    }.items():
        queries, keys = rotary.rotate_queries_and_keys(ones, ones)
        score_axes.plot(tf.linalg.matvec(queries, keys[0]).numpy() / dim, label=name, linewidth=1)
    score_axes.axhline(0, color=FAINT, linewidth=0.8)
    score_axes.set(
        title="the score of a query equal to its key", xlabel="distance", ylabel="of 1 at distance 0"
    )
    plain_logs(scale_axes)
    scale_axes.grid()
    score_axes.grid()
    score_axes.legend()
    figure.legend(*scale_axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure
