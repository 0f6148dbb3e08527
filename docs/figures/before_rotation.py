"""Figures on attention without positions and on absolute and relative positions."""

import numpy as np
import tensorflow as tf
from matplotlib import colormaps
from matplotlib.figure import Figure

from models.kernels import alibi_bias, alibi_slopes
from models.position_embeddings import sinusoidal_embedding
from rope.embedding import RotaryEmbedding
from runs.figure_style import BLUE, INK, ORANGE, SIGNED, subplots

SENTENCE = ("the", "man", "escaped", "from", "the", "snake")
SWAPPED = ("the", "snake", "escaped", "from", "the", "man")
MISSING = "#d9d8d2"


def order() -> Figure:
    """Attention weights of "escaped" in two sentences that differ only in the order of their words."""
    figure, panels = subplots(3.6, 'Attention weights of the query "escaped"', 1, 2, sharex=True, sharey=True)
    names = ["the (first)", "the (second)", "man", "snake", "escaped", "from"]
    columns = {SENTENCE: [0, 4, 1, 5, 2, 3], SWAPPED: [0, 4, 5, 1, 2, 3]}  # of these names
    titles = {"without positions: the same": None, "rotated by position: not the same": RotaryEmbedding(32)}
    for axes, (title, rotary) in zip(panels, titles.items(), strict=True):
        for offset, words, color in ((-0.2, SENTENCE, BLUE), (0.2, SWAPPED, ORANGE)):
            weights = weights_of_escaped(words, rotary)[columns[words]]
            bars = np.arange(len(names)) + offset
            axes.barh(bars, weights, height=0.38, color=color, label=" ".join(words))
        axes.set(title=title, xlabel="attention weight")
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def weights_of_escaped(words: tuple[str, ...], rotary: RotaryEmbedding | None) -> np.ndarray:
    """(length,) attention weights of "escaped"; each word has a random query and key of 32 features."""
    generator = np.random.default_rng(1)
    vectors = {word: generator.normal(size=(2, 32)).astype(np.float32) for word in sorted(set(SENTENCE))}
    queries, keys = tf.unstack(np.stack([vectors[word] for word in words], axis=1))  # (length, dim) each
    if rotary is not None:
        queries, keys = rotary.rotate_queries_and_keys(queries, keys)
    scores = tf.linalg.matvec(keys, queries[words.index("escaped")]) / 32**0.5  # (length,)
    return tf.nn.softmax(scores).numpy()


def absolute() -> Figure:
    """Position vectors: a learned table, which ends at the trained length, and sinusoids."""
    title = "A vector for each position, added to the word that stands there"
    figure, (learned_axes, sinusoidal_axes) = subplots(3.9, title, 1, 2, sharey=True)
    length, trained, dim = 64, 32, 32
    table = np.full((length, dim), np.nan)
    table[:trained] = np.random.default_rng(0).normal(size=(trained, dim), scale=0.5)
    colors = colormaps[SIGNED].with_extremes(bad=MISSING)
    learned_axes.imshow(table, cmap=colors, vmin=-1.5, vmax=1.5, aspect="auto")
    middle = (dim - 1) / 2, (trained + length - 1) / 2
    missing = "no rows: these positions\nwere not trained"
    learned_axes.text(*middle, missing, ha="center", va="center", color=INK)
    sinusoids = sinusoidal_embedding(tf.range(length), dim).numpy()
    picture = sinusoidal_axes.imshow(sinusoids, cmap=SIGNED, vmin=-1.5, vmax=1.5, aspect="auto")
    learned_axes.set(title=f"learned, here {trained} random rows", xlabel="feature", ylabel="position")
    sinusoidal_axes.set(title="sinusoidal, for any position", xlabel="feature")
    figure.colorbar(picture, ax=[learned_axes, sinusoidal_axes], label="what is added")
    return figure


def moving() -> Figure:
    """Score of one query and one key at a fixed distance, by the position of the key."""
    length, distance = 128, 3
    title = f"Score of one pair of words, {distance} positions apart, as both move along the text"
    figure, axes = subplots(3.6, title)
    starts = np.arange(length - distance)
    scores = moving_scores(length, distance=distance, dim=64, trained=length // 2)
    for (name, values), style in zip(scores.items(), ("-", "--", "-"), strict=True):
        axes.plot(starts, values, style, label=name, linewidth=2.5 if name == "rotated" else 1.2)
    axes.set(xlabel="position of the key", ylabel="score")
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def moving_scores(length: int, *, distance: int, dim: int, trained: int) -> dict[str, np.ndarray]:
    """(length - distance,) scores by scheme of a query `distance` after its key; NaN if not trained."""
    generator = np.random.default_rng(0)
    words = generator.normal(size=(2, dim))
    to_queries, to_keys = generator.normal(size=(2, dim, dim)) / dim**0.5
    learned = np.full((length, dim), np.nan)
    learned[:trained] = generator.normal(size=(trained, dim), scale=0.5)
    sinusoids = sinusoidal_embedding(tf.range(length), dim).numpy()

    def scores(table, rotate=lambda x: x):
        queries = rotate((words[0] + table) @ to_queries)[distance:]
        keys = rotate((words[1] + table) @ to_keys)[: length - distance]
        return np.sum(queries * keys, axis=-1) / dim**0.5

    return {
        f"learned vectors added (here random, for {trained} positions)": scores(learned),
        "sinusoids added": scores(sinusoids),
        "rotated": scores(np.zeros((length, dim)), RotaryEmbedding(dim).rotate_queries_or_keys),
    }


def relative() -> Figure:
    """Bias of ALiBi: the matrix of one head, and all heads by distance."""
    title = "ALiBi: a bias on the score that depends only on the distance"
    figure, (matrix_axes, line_axes) = subplots(3.6, title, 1, 2)
    length, num_heads = 24, 4
    columns = tf.range(length)
    bias = alibi_bias(columns, columns, num_heads).numpy()  # (num_heads, length, length)
    colors = colormaps["Blues_r"].with_extremes(bad=MISSING)
    picture = matrix_axes.imshow(np.where(np.tri(length) == 1, bias[0], np.nan), cmap=colors)
    matrix_axes.set(title="head 0: every diagonal is constant", xlabel="position of the key")
    matrix_axes.set_ylabel("position of the query")
    hidden = {"ha": "right", "va": "top", "transform": matrix_axes.transAxes}
    matrix_axes.text(0.95, 0.9, "later words\nare hidden", **hidden)
    figure.colorbar(picture, ax=matrix_axes, shrink=0.9, label="bias")
    for head, slope in enumerate(alibi_slopes(num_heads)):
        line_axes.plot(-slope * np.arange(length), label=f"head {head}: slope 1/{1 / slope:g}")
    line_axes.set(title="each head has its own slope", xlabel="distance", ylabel="bias")
    line_axes.grid()
    line_axes.legend(loc="lower left")
    return figure
