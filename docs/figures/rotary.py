"""Figures on the rotation itself, its frequencies, and scores by distance."""

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle

from models.position_embeddings import sinusoidal_embedding
from rope.compat import rotate_half
from rope.embedding import RotaryEmbedding
from rope.frequencies import language_frequencies
from rope.rotation import doubled, rotary_angles, xpos_scales
from runs.figure_style import BLUE, COLORS, FAINT, INK, ORANGE, SIGNED, subplots
from runs.plots import write_cells

EQUAL = "a query equal to its key, all pairs of equal length"


def turn() -> Figure:
    """A vector in the plane at six positions, and two pairs of vectors at the same distance."""
    figure, (fan, angle) = subplots(3.9, "A pair of features rotated by 0.5 radians per position", 1, 2)
    for position in range(6):
        color = BLUE if position == 0 else FAINT
        draw_arrow(fan, np.exp(0.5j * position), color=color, label=f"m = {position}")
    fan.set_title("the same vector at positions 0 to 5")
    for first, style in ((1, "-"), (8, "--")):
        query, key = np.exp(0.5j * (first + 3)), np.exp(0.5j * first - 0.4j)
        draw_arrow(angle, query, color=BLUE, label=f"query at {first + 3}", style=style)
        draw_arrow(angle, key, color=ORANGE, label=f"key at {first}", style=style)
        start, end = np.angle([key, query], deg=True)
        angle.add_patch(Arc((0, 0), 0.7, 0.7, theta1=start, theta2=end, color=INK, linestyle=style))
    angle.set_title("at distance 3, the angle is the same")
    for axes in (fan, angle):
        axes.set(xlim=(-1.5, 1.5), ylim=(-1.15, 1.35), aspect="equal")
        axes.add_patch(Circle((0, 0), 1, fill=False, color=FAINT, linewidth=0.8))
        axes.axis("off")
    return figure


def draw_arrow(axes: Axes, end: complex, *, color: str, label: str, style: str = "-") -> None:
    options = {"arrowstyle": "-|>", "color": color, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end.real, end.imag), (0, 0), arrowprops={**options, "linewidth": 1.8})
    beyond = end * (1 + 0.24 / abs(end))
    axes.text(beyond.real, beyond.imag, label, ha="center", va="center", fontsize=9)


def pairs() -> Figure:
    """Angle of each pair (row) at some positions (columns), drawn as the hand of a clock."""
    positions, frequencies = (0, 1, 2, 3, 10, 30, 100, 300, 1_000), language_frequencies(8)
    figure, axes = subplots(3.9, "Each pair of a head rotates at its own frequency")
    angles = rotary_angles(tf.constant(positions), frequencies).numpy()
    for (column, row), angle in np.ndenumerate(angles):
        axes.add_patch(Circle((column, row), 0.42, fill=False, color=FAINT))
        x, y = column + 0.42 * np.cos(angle), row - 0.42 * np.sin(angle)  # the y axis points down
        axes.plot([column, x], [row, y], color=BLUE, linewidth=2.2)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, len(positions) - 0.5), ylim=(len(frequencies) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(positions)), [f"{position:,}" for position in positions])
    labels = [f"pair {pair}\n{frequency:.3g} rad per token" for pair, frequency in enumerate(frequencies)]
    axes.set_yticks(range(len(frequencies)), labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.set_xlabel("position of the token")
    axes.xaxis.set_label_position("top")
    return figure


def frequencies() -> Figure:
    """Wavelength of each pair in tokens, compared with a context of 256."""
    wavelengths, length = 2 * np.pi / language_frequencies(64), 256
    slow = wavelengths > length
    figure, axes = subplots(3.6, "Tokens per full turn of each pair (dim 64, theta 10,000)")
    numbers = np.arange(len(slow))
    axes.semilogy(numbers[~slow], wavelengths[~slow], "o", label="complete a turn within the context")
    axes.semilogy(numbers[slow], wavelengths[slow], "s", label="complete none")
    axes.axhline(length, color=INK, linestyle="--", linewidth=1)
    axes.text(0, length * 1.2, f"a context of {length}", va="bottom")
    axes.set(xlabel="pair", ylabel="tokens per turn")
    axes.set_title(f"{slow.sum()} of {len(slow)} pairs complete no turn in {length} tokens")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid()
    axes.legend(loc="lower right")
    return figure


def matrix() -> Figure:
    """The rotation as a matrix: a diagonal of cosines plus a swap within pairs times sines."""
    dim = 8
    angles = doubled(rotary_angles(tf.constant([3]), language_frequencies(dim, theta=100.0)))[0].numpy()
    cosines = np.diag(np.cos(angles))
    sines = np.sin(angles)[:, np.newaxis] * np.transpose(rotate_half(tf.eye(dim)))
    figure, grid = subplots(3.4, "The rotation at position 3 (dim 8, theta 100): most entries are zero", 1, 3)
    panels = {
        f"the matrix, {dim} x {dim}": cosines + sines,
        "= cosines on the diagonal": cosines,
        "+ sines beside it": sines,
    }
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1)
        axes.set(title=title, xlabel="feature of the vector", xticks=range(dim), yticks=range(dim))
        texts = [[f"{x:.2f}".replace("0.", ".") if x else "" for x in row] for row in values]
        write_cells(axes, abs(values), texts)
    grid[0].set_ylabel("feature of the result")
    return figure


def distance() -> Figure:
    """Scores of one query and one key by both positions, with added sinusoids and with rotation."""
    length, dim = 48, 64
    words = np.random.default_rng(0).normal(size=(2, 1, dim)).astype(np.float32)
    sinusoids = sinusoidal_embedding(tf.range(length), dim).numpy()
    rotary = RotaryEmbedding(dim)
    rotated = [rotary.rotate_queries_or_keys(np.repeat(word, length, axis=0)).numpy() for word in words]
    panels = {
        "sinusoids added: the diagonals vary": (words[0] + sinusoids) @ (words[1] + sinusoids).T,
        "rotated: every diagonal is constant": rotated[0] @ rotated[1].T,
    }
    figure, grid = subplots(4.1, "Score of one query and one key by position", 1, 2, sharey=True)
    for axes, (title, scores) in zip(grid, panels.items(), strict=True):
        values = (scores - scores.mean()) / dim**0.5
        picture = axes.imshow(values, cmap=SIGNED, vmin=-2, vmax=2)
        axes.set(title=title, xlabel="position of the key")
    grid[0].set_ylabel("position of the query")
    figure.colorbar(picture, ax=grid, shrink=0.8, label=r"score / $\sqrt{64}$, minus its mean", extend="both")
    return figure


def decay() -> Figure:
    """Upper bound of arXiv 2104.09864, section 3.4.3, by distance, and the score of equal vectors."""
    dim = 128
    angles = rotary_angles(tf.range(256), language_frequencies(dim)).numpy()
    figure, (left, right) = subplots(3.8, "Decay of scores with distance (dim 128, theta 10,000)", 1, 2)
    sums = np.cumsum(np.exp(1j * angles), axis=1)  # (length, pairs): S_1, S_2, ...
    left.plot(abs(sums).mean(axis=1), color=BLUE)
    left.set(title="the bound: mean size of the partial sums", xlabel="distance", ylim=(0, None))
    left.set_ylabel(f"mean $|S_p|$ (at most {(dim / 2 + 1) / 2:g})")
    right.plot(np.cos(angles).mean(axis=1), color=ORANGE)
    right.axhline(0, color=FAINT, linewidth=0.8)
    right.set(title=EQUAL, xlabel="distance")
    right.set_ylabel("score / score at distance 0")
    left.grid()
    right.grid()
    return figure


def xpos() -> Figure:
    """Scales of xPos by position, and the score of equal vectors by distance."""
    title = "xPos (dim 64): queries decrease with their position, keys increase, and the score decays"
    figure, (scale_axes, score_axes) = subplots(4.1, title, 1, 2)
    dim, length = 64, 2_048
    scales = xpos_scales(tf.range(length), dim, scale_base=512.0, center=length // 2).numpy()
    for pair, color in zip((0, dim // 4, dim // 2 - 1), COLORS, strict=False):
        scale_axes.semilogy(scales[:, pair], color=color, label=f"queries, pair {pair}")
        scale_axes.semilogy(1 / scales[:, pair], "--", color=color, label=f"keys, pair {pair}")
    scale_axes.set(title="what the features are multiplied by; c = 1,024", xlabel="position")
    ones = tf.ones((length, dim))
    for name, use_xpos, color in (("rotation alone", False, FAINT), ("with xPos", True, INK)):
        rotary = RotaryEmbedding(dim, use_xpos=use_xpos)
        queries, keys = rotary.rotate_queries_and_keys(ones, ones)
        score_axes.plot(tf.linalg.matvec(queries, keys[0]).numpy() / dim, color=color, label=name)
    score_axes.axhline(0, color=FAINT, linewidth=0.8)
    score_axes.set(title=EQUAL, xlabel="distance")
    score_axes.set_ylabel("score / score at distance 0")
    for axis in (scale_axes.xaxis, scale_axes.yaxis, score_axes.xaxis):
        axis.set_major_formatter("{x:,g}")
    scale_axes.grid()
    score_axes.grid()
    score_axes.legend()
    figure.legend(*scale_axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
