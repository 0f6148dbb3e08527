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
