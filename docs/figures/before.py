"""What came before rotation: no positions, absolute ones, relative ones."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from docs.figures.style import BLUE, FAINT, INK, ORANGE, SIGNED, new_figure, without
from models.positions import alibi_bias, alibi_slopes, sinusoidal_embedding
from rope.embedding import RotaryEmbedding

SENTENCE = ("the", "man", "escaped", "from", "the", "snake")
SWAPPED = ("the", "snake", "escaped", "from", "the", "man")
DISTANCE = 3


def order(*, dim: int, theta: float, seed: int) -> Figure:
    """How much "escaped" looks at each word of two sentences that only their order tells apart."""
    figure = new_figure(8.5, 3.6, 'How much "escaped" looks at each word')
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    slots = [("the", 0), ("the", 1), ("man", 0), ("snake", 0), ("escaped", 0), ("from", 0)]
    names = ["the (first)", "the (second)", "man", "snake", "escaped", "from"]
    rotary = RotaryEmbedding(dim, theta=theta)
    titles = {"without positions: the same": None, "rotated by position: not the same": rotary}
    for axes, (title, rotation) in zip(panels, titles.items(), strict=True):
        for offset, words, color in ((-0.2, SENTENCE, BLUE), (0.2, SWAPPED, ORANGE)):
            weights = looks(words, dim=dim, rotary=rotation, seed=seed)
            places = [occurrences(words, word)[index] for word, index in slots]
            axes.barh(
                np.arange(len(slots)) + offset,
                weights[places],
                height=0.38,
                color=color,
                label=" ".join(words),
            )
        axes.set(title=title, xlabel="attention weight")
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def looks(words: tuple[str, ...], *, dim: int, rotary: RotaryEmbedding | None, seed: int) -> np.ndarray:
    """(length,) attention weights of "escaped", from queries and keys that are drawn for each word."""
    generator = np.random.default_rng(seed)
    vectors = {word: generator.normal(size=(2, dim)).astype(np.float32) for word in sorted(set(SENTENCE))}
    queries, keys = tf.unstack(np.stack([vectors[word] for word in words], axis=1))  # (length, dim) each
    if rotary is not None:
        queries, keys = rotary.rotate_queries_and_keys(queries, keys)
    scores = tf.linalg.matvec(keys, queries[words.index("escaped")]) / dim**0.5
    return tf.nn.softmax(scores).numpy()


def occurrences(words: tuple[str, ...], word: str) -> list[int]:
    return [index for index, other in enumerate(words) if other == word]


def absolute(*, dim: int, length: int, seed: int) -> Figure:
    """Two tables that are added to the words; a learned one ends with the trained length."""
    figure = new_figure(8.5, 3.9, "A vector for each position, added to the word that stands there")
    learned_axes, sinusoidal_axes = figure.subplots(1, 2, sharey=True)
    trained = max(1, length // 2)
    table = np.full((length, dim), np.nan)
    table[:trained] = np.random.default_rng(seed).normal(size=(trained, dim), scale=0.5)
    learned_axes.imshow(table, cmap=without(SIGNED), vmin=-1.5, vmax=1.5, aspect="auto")
    learned_axes.text(
        (dim - 1) / 2,
        (trained + length - 1) / 2,
        "no rows: these positions\nwere not trained",
        ha="center",
        va="center",
        color=INK,
    )
    sinusoids = sinusoidal_embedding(tf.range(length), dim).numpy()
    picture = sinusoidal_axes.imshow(sinusoids, cmap=SIGNED, vmin=-1.5, vmax=1.5, aspect="auto")
    learned_axes.set(title=f"learned, for {trained} positions", xlabel="feature", ylabel="position")
    sinusoidal_axes.set(title="sinusoidal, for any number", xlabel="feature")
    figure.colorbar(picture, ax=[learned_axes, sinusoidal_axes], label="what is added")
    return figure


def moving(*, dim: int, theta: float, length: int, seed: int) -> Figure:
    """The score of one query and one key at a fixed distance, by where they stand."""
    figure = new_figure(
        8.5, 3.6, f"One pair of words, {DISTANCE} positions apart, moves along the text: its score"
    )
    axes = figure.subplots()
    starts = np.arange(max(1, length - DISTANCE))
    scores = moving_scores(starts, dim=dim, theta=theta, trained=max(1, length // 2), seed=seed)
    for (name, values), style in zip(scores.items(), ("-", "--", "-"), strict=True):
        axes.plot(starts, values, style, label=name, linewidth=2.5 if name == "rotated" else 1.2)
    axes.set(xlabel="position of the key", ylabel="query times key")
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def moving_scores(starts, *, dim, theta, trained, seed) -> dict[str, np.ndarray]:
    """Scores, by scheme, of a query at `starts + DISTANCE` and a key at `starts`; NaN where untrained."""
    generator = np.random.default_rng(seed)
    words = generator.normal(size=(2, dim))
    to_queries, to_keys = generator.normal(size=(2, dim, dim)) / dim**0.5
    end = int(starts[-1]) + DISTANCE + 1
    learned = np.full((end, dim), np.nan)
    learned[: min(trained, end)] = generator.normal(size=(trained, dim), scale=0.5)[:end]
    sinusoids = sinusoidal_embedding(tf.range(end), dim).numpy()

    def added(table):
        queries = (words[0] + table[starts + DISTANCE]) @ to_queries
        return np.sum(queries * ((words[1] + table[starts]) @ to_keys), axis=-1) / dim**0.5

    rotary = RotaryEmbedding(dim, theta=theta)
    queries, keys = (
        tf.constant(np.broadcast_to(word @ matrix, (len(starts), dim)), tf.float32)
        for word, matrix in zip(words, (to_queries, to_keys), strict=True)
    )
    queries = rotary.rotate_queries_or_keys(queries, positions=starts + DISTANCE)
    keys = rotary.rotate_queries_or_keys(keys, positions=starts)
    rotated = tf.reduce_sum(queries * keys, axis=-1).numpy() / dim**0.5
    return {
        f"learned vectors added (here random, for {trained} positions)": added(learned),
        "sinusoids added": added(sinusoids),
        "rotated": rotated,
    }


def relative(*, length: int) -> Figure:
    """ALiBi's bias of a head, as a matrix, and of all heads by distance."""
    figure = new_figure(8.5, 3.6, "A bias on the score that knows nothing but the distance (ALiBi)")
    matrix_axes, line_axes = figure.subplots(1, 2)
    columns, num_heads = tf.range(length), 4
    bias = alibi_bias(columns, columns, num_heads).numpy()
    visible = np.tril(np.ones((length, length), bool))
    picture = matrix_axes.imshow(np.where(visible, bias[0], np.nan), cmap=without("Blues_r"))
    matrix_axes.set(title="head 0: every diagonal is one number", xlabel="position of the key")
    matrix_axes.set_ylabel("position of the query")
    matrix_axes.text(
        0.95, 0.9, "later words\nare hidden", ha="right", va="top", transform=matrix_axes.transAxes
    )
    figure.colorbar(picture, ax=matrix_axes, label="added to the score", shrink=0.9)
    for head, slope in enumerate(alibi_slopes(num_heads)):
        line_axes.plot(-slope * np.arange(length), label=f"head {head}: slope {slope:g}")
    line_axes.set(title="each head has a slope of its own", xlabel="distance", ylabel="added to the score")
    line_axes.axhline(0, color=FAINT, linewidth=0.8)
    line_axes.grid()
    line_axes.legend(loc="lower left")
    return figure
