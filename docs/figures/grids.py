"""Rotation that follows more than one running number: rows and columns, and the tokens themselves."""

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from docs.figures.before import SENTENCE
from docs.figures.style import SIGNED, new_figure
from models.rotations import LearnedRotations
from rope.axial import MixedRotaryEmbedding, grid_positions
from rope.embedding import RotaryEmbedding

SHOWN_PAIRS = 4


def grid(*, head_dim: int, theta: float, size: int, seed: int) -> Figure:
    """Angles of some pairs over a grid, and the score of equal patches with the one in the middle."""
    axial = RotaryEmbedding(head_dim // 2, theta=theta).axial_angles(size, size).numpy()
    mixed = MixedRotaryEmbedding(1, head_dim, theta=theta, seed=seed)
    mixed = mixed.angles(grid_positions(size, size)).numpy().reshape(size, size, -1)
    num_pairs = head_dim // 2
    half = num_pairs // 2
    shown = sorted({0, half - 1, half, num_pairs - 1}) if num_pairs > SHOWN_PAIRS else range(num_pairs)
    names = [f"pair {pair}, of {'rows' if pair < half else 'columns'}" for pair in shown]
    figure = new_figure(
        10, 4.5, f"Rotation over {size} x {size} patches: cosine of the angle between a patch and the middle"
    )
    rows = {"axial": (axial, names), "mixed": (mixed, [f"pair {pair}" for pair in shown])}
    panels = figure.subplots(2, len(shown) + 1)
    for row, (name, (angles, titles)) in zip(panels, rows.items(), strict=True):
        cosines = np.cos(angles - angles[size // 2, size // 2])
        maps = [*(cosines[..., pair] for pair in shown), cosines.mean(axis=-1)]
        for axes, title, values in zip(
            row, [*titles, f"all {num_pairs} pairs: the score"], maps, strict=True
        ):
            picture = axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1)
            axes.set_title(title, fontsize=9.5)
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(name, fontsize=12)
    figure.colorbar(picture, ax=panels, shrink=0.7)
    return figure


def learned(*, frequency: float, seed: int) -> Figure:
    """Angles of one pair, by token: of positions, with per-token rotations, with their running sum."""
    generator = np.random.default_rng(seed)
    vectors = {word: generator.normal(size=8) for word in sorted(set(SENTENCE))}
    tokens = tf.constant(np.stack([vectors[word] for word in SENTENCE])[np.newaxis], tf.float32)
    kernel = generator.normal(size=(8, 1)) * 0.25
    positional = frequency * np.arange(len(SENTENCE))
    figure = new_figure(8.5, 3.9, "The angle of one pair at each token")
    axes = figure.subplots()
    axes.plot(positional, "o-", label=f"of the position alone: {frequency:g} a token")
    for name, cumulative in (
        ("a turn of its own for each token", False),
        ("their running sum: a speed", True),
    ):
        layer = LearnedRotations(num_kv_heads=1, head_dim=2, cumulative=cumulative, name="learned")
        layer(tokens)
        layer.projection.kernel.assign(kernel)
        angles, _ = layer(tokens)
        axes.plot(positional + angles.numpy()[0, 0, :, 0], "s--", label=f"plus {name}")
    axes.set_xticks(range(len(SENTENCE)), SENTENCE)
    axes.set(ylabel="radians")
    axes.set_title(
        "weights drawn at random; in training they start at zero, on the straight line", fontsize=9.5
    )
    axes.grid()
    axes.legend()
    return figure
