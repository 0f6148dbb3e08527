"""The rotation itself: a pair, its frequencies, the matrix, and scores that know the distance alone."""

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Circle

from docs.figures.style import BLUE, COLORS, FAINT, INK, ORANGE, SIGNED, bare, new_figure, plain_logs
from models.positions import sinusoidal_embedding
from rope.apply import rotate_half
from rope.embedding import RotaryEmbedding
from rope.frequencies import language_frequencies
from rope.rotation import doubled, rotary_angles, rotary_table, rotate

POSITIONS = (0, 1, 2, 3, 10, 30, 100, 300, 1_000)
MAX_CLOCKS = 6
MAX_NUMBERED = 10


def turn(*, frequency: float) -> Figure:
    """A vector in the plane at six positions, and two pairs of vectors at the same distance."""
    figure = new_figure(8.5, 4.3, f"A pair of features turns by {frequency:g} radians a position")
    fan, angle = figure.subplots(1, 2)
    for position, (x, y) in enumerate(turned([1.0, 0.0], range(6), frequency)):
        shade = COLORS[0] if position == 0 else FAINT
        arrow(fan, x, y, color=shade, label=f"m = {position}")
    fan.set_title("the same vector at positions 0 to 5")
    query, key = [1.0, 0.0], [0.92, -0.39]
    for first, radius in ((1, 1.0), (4, 0.62)):
        (q,), (k,) = turned(query, [first + 3], frequency), turned(key, [first], frequency)
        arrow(angle, *(radius * q), color=BLUE, label=f"query at {first + 3}")
        arrow(angle, *(radius * k), color=ORANGE, label=f"key at {first}")
        degrees = [np.degrees(np.arctan2(y, x)) for x, y in (k, q)]
        angle.add_patch(Arc((0, 0), radius, radius, theta1=degrees[0], theta2=degrees[1], color=INK))
    angle.set_title("3 apart, twice: the angle between is the same")
    for axes in (fan, angle):
        axes.set(xlim=(-1.5, 1.6), ylim=(-1.05, 1.4), aspect="equal")
        axes.add_patch(Circle((0, 0), 1, fill=False, color=FAINT, linewidth=0.8))
        bare(axes)
    return figure


def turned(vector, positions, frequency: float) -> np.ndarray:
    """(positions, 2) of a vector in the plane."""
    table = rotary_table(rotary_angles(tf.constant(list(positions)), [frequency]))
    return rotate(tf.constant([vector] * len(table), tf.float32), table).numpy()


def arrow(axes: Axes, x: float, y: float, *, color: str, label: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.8}
    axes.annotate("", (x, y), (0, 0), arrowprops=style)
    length = np.hypot(x, y)
    axes.text(*(np.array([x, y]) * (1 + 0.24 / length)), label, ha="center", va="center", fontsize=9)


def pairs(*, dim: int, theta: float) -> Figure:
    """Clocks: a row a pair, a column a position."""
    frequencies = language_frequencies(dim, theta=theta)
    shown = np.linspace(0, len(frequencies) - 1, min(MAX_CLOCKS, len(frequencies))).round().astype(int)
    figure = new_figure(
        9, 1.1 + 0.85 * len(shown), "Each pair of a head is a hand that turns at its own speed"
    )
    axes = figure.subplots()
    angles = rotary_angles(tf.constant(POSITIONS), frequencies[shown]).numpy()
    for (column, row), angle in np.ndenumerate(angles):
        axes.add_patch(Circle((column, row), 0.42, fill=False, color=FAINT))
        # The axis points down.
        end = column + 0.42 * np.cos(angle), row - 0.42 * np.sin(angle)
        axes.plot([column, end[0]], [row, end[1]], color=BLUE, linewidth=2.2)
    bare(axes)
    axes.set(xlim=(-0.5, len(POSITIONS) - 0.5), ylim=(len(shown) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(POSITIONS)), [f"{position:,}" for position in POSITIONS])
    axes.set_yticks(
        range(len(shown)), [f"pair {pair}\n{frequencies[pair]:.3g} radians a token" for pair in shown]
    )
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.set_xlabel("position of the token")
    axes.xaxis.set_label_position("top")
    return figure


def frequencies(*, dim: int, theta: float, length: int) -> Figure:
    """Tokens of a full turn, by pair, beside a context."""
    wavelengths = 2 * np.pi / language_frequencies(dim, theta=theta)
    slow = wavelengths > length
    figure = new_figure(8.5, 3.6, f"How many tokens a full turn takes (dim {dim}, theta {theta:,.0f})")
    axes = figure.subplots()
    index = np.arange(len(wavelengths))
    axes.semilogy(
        index[~slow], wavelengths[~slow], "o", color=BLUE, label="complete a turn within the context"
    )
    axes.semilogy(index[slow], wavelengths[slow], "s", color=ORANGE, label="complete none there")
    axes.axhline(length, color=INK, linestyle="--", linewidth=1)
    axes.text(0, length * 1.2, f"a context of {length:,}", va="bottom")
    axes.set(xlabel="pair", ylabel="tokens of a turn")
    axes.set_title(f"{slow.sum()} of {len(slow)} pairs do not complete one in {length:,} tokens")
    plain_logs(axes)
    axes.grid()
    axes.legend(loc="lower right")
    return figure


def matrix(*, dim: int, theta: float, position: int, layout: str) -> Figure:
    """The rotation as a matrix, as a diagonal of cosines and a swap of neighbours times sines."""
    angles = rotary_angles(tf.constant([position]), language_frequencies(dim, theta=theta))
    eye = tf.eye(dim)
    whole = tf.transpose(rotate(eye, rotary_table(angles), layout=layout)).numpy()
    cosines = np.diag(doubled(tf.cos(angles), layout=layout).numpy()[0])
    swap = tf.transpose(rotate_half(eye, layout=layout)).numpy()
    sines = doubled(tf.sin(angles), layout=layout).numpy()[0][:, np.newaxis] * swap
    figure = new_figure(
        10, 3.7, f"The rotation at position {position}, {layout} pairs: a matrix that is nearly empty"
    )
    titles = (
        f"the matrix, {dim} x {dim}",
        "= cosines on the features",
        "+ sines on the features, swapped in pairs",
    )
    for axes, title, values in zip(figure.subplots(1, 3), titles, (whole, cosines, sines), strict=True):
        picture = axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("feature of the vector")
        axes.set_xticks(range(0, dim, max(1, dim // 8)))
        axes.set_yticks(range(0, dim, max(1, dim // 8)))
        if dim <= MAX_NUMBERED:
            for (row, column), value in np.ndenumerate(values):
                if value:
                    color = "white" if abs(value) > 0.6 else INK
                    axes.text(
                        column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color
                    )
    figure.axes[0].set_ylabel("feature of the result")
    figure.colorbar(picture, ax=figure.axes, shrink=0.6)
    return figure


def distance(*, dim: int, theta: float, length: int, seed: int) -> Figure:
    """Scores of one query and one key, wherever each of them stands."""
    words = np.random.default_rng(seed).normal(size=(2, 1, dim)).astype(np.float32)
    sinusoids = sinusoidal_embedding(tf.range(length), dim).numpy()
    rotary = RotaryEmbedding(dim, theta=theta)
    rotated = [rotary.rotate_queries_or_keys(np.repeat(word, length, axis=0)).numpy() for word in words]
    scores = {
        "sinusoids added": (words[0] + sinusoids) @ (words[1] + sinusoids).T,
        "rotated": rotated[0] @ rotated[1].T,
    }
    figure = new_figure(8.5, 4.1, "The score of one query and one key, by where they stand")
    for axes, (name, values) in zip(figure.subplots(1, 2), scores.items(), strict=True):
        values = values / dim**0.5
        largest = abs(values - values.mean()).max()
        picture = axes.imshow(values - values.mean(), cmap=SIGNED, vmin=-largest, vmax=largest)
        what = "every diagonal is one number" if name == "rotated" else "no diagonal is one number"
        axes.set(title=f"{name}: {what}", xlabel="position of the key", ylabel="position of the query")
        figure.colorbar(picture, ax=axes, shrink=0.75, label="score, minus its mean")
    return figure
