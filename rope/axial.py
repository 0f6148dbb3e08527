"""Rotary embeddings over several axes: rows and columns of an image, frames of a video.

Shape words: cells, all positions of a grid; axes, the coordinates of each; pairs, those that rotate with one
axis; dim, the features of a head.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rope.frequencies import language_frequencies
from rope.rotation import check_layout, doubled, rotary_angles, rotary_table, rotate


def axis_positions(
    size: int | tf.Tensor, *, coordinates: str = "cells", offset: float | tf.Tensor = 0
) -> tf.Tensor:
    """(size,) positions along one axis: 0, 1, 2, ... for `cells`, equally spaced in [-1, 1] for `unit`.

    `offset`, an integer or float32, is added to them.
    """
    if coordinates == "cells":
        offset = tf.convert_to_tensor(offset)
        return tf.cast(tf.range(size), offset.dtype) + offset
    if coordinates == "unit":
        return tf.linspace(-1.0, 1.0, size) + tf.cast(offset, tf.float32)
    raise ValueError(f"coordinates must be one of cells, unit; got {coordinates!r}.")


def axial_angles(
    positions: Sequence[tf.Tensor], frequencies: tf.Tensor, *, axis_order: Sequence[int] | None = None
) -> tf.Tensor:
    """Angles on a grid, with one block of pairs for each axis.

    Args:
        positions: (size,) positions along each axis of the grid.
        frequencies: (pairs,) radians per unit, shared by the axes.
        axis_order: as for `grid_angles`.

    Returns:
        (size of axis 0, size of axis 1, ..., axes * pairs) radians, float32.
    """
    return grid_angles([rotary_angles(axis, frequencies) for axis in positions], axis_order=axis_order)


def grid_angles(angles: Sequence[tf.Tensor], *, axis_order: Sequence[int] | None = None) -> tf.Tensor:
    """Angles on a grid, combined from the angles along each axis.

    Args:
        angles: (size, pairs) radians along each axis, float32.
        axis_order: axis of each block of pairs; (0, 1, ...) when not given, which is rows, then columns, in
            images. RoPE-ViT has columns first, (1, 0).

    Returns:
        (size of axis 0, size of axis 1, ..., sum of pairs) radians, float32.

    Raises:
        ValueError: if `axis_order` does not name each axis once.
    """
    axes = len(angles)
    order = tuple(range(axes)) if axis_order is None else tuple(axis_order)
    if sorted(order) != list(range(axes)):
        raise ValueError(f"axis_order must name each of the axes 0 to {axes - 1} once, got {order}.")
    sizes = [tf.shape(axis)[0] for axis in angles]
    blocks = []
    for axis in order:
        pairs = angles[axis].shape[-1]
        shape = [-1 if other == axis else 1 for other in range(axes)]
        block = tf.reshape(angles[axis], (*shape, pairs))  # (1, ..., size, ..., 1, pairs)
        blocks.append(tf.broadcast_to(block, (*sizes, pairs)))
    return tf.concat(blocks, axis=-1)  # (*sizes, sum of pairs)


def grid_positions(*dims: int, axis_order: Sequence[int] | None = None) -> tf.Tensor:
    """(cells, axes) float32 coordinates of a flattened grid, last axis fastest.

    Coordinate 0 is the row of an image, 1 the column; `axis_order` (1, 0) swaps them.
    """
    grid = tf.meshgrid(*[tf.range(size) for size in dims], indexing="ij")
    order = range(len(dims)) if axis_order is None else axis_order
    return tf.cast(tf.stack([tf.reshape(grid[axis], [-1]) for axis in order], axis=-1), tf.float32)


def mixed_frequencies(num_heads: int, dim: int, *, theta: float = 10.0, turns: np.ndarray) -> np.ndarray:
    """Initial 2-D frequencies of RoPE-ViT (Heo et al. 2024, arXiv 2403.13298), in radians per cell.

    Args:
        num_heads: number of heads, each with frequencies of its own.
        dim: features of a head, a multiple of 4.
        theta: rotation base of the magnitudes theta^(-4i / dim).
        turns: (num_heads,) rotation of the axes of each head in radians; 0 is axial.

    Returns:
        (2, num_heads, dim / 2) float64, along the first and the second coordinate.

    Raises:
        ValueError: if `dim` is not a positive multiple of 4, or there is not one turn per head.
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"dim must be a positive multiple of 4 for 2-D frequencies, got {dim}.")
    magnitudes = np.tile(language_frequencies(dim // 2, theta=theta), 2)  # (dim / 2,)
    turns = np.reshape(np.asarray(turns, np.float64), (num_heads, 1))
    directions = np.repeat(np.concatenate([turns, turns + np.pi / 2], axis=-1), dim // 4, axis=-1)
    return np.stack([magnitudes * np.cos(directions), magnitudes * np.sin(directions)])


def add_frequencies(layer: keras.layers.Layer, initial: np.ndarray) -> Any:
    """Adds a float32 weight for learned frequencies to a layer."""
    return layer.add_weight(
        name="frequencies",
        shape=initial.shape,
        dtype="float32",
        initializer=lambda shape, dtype: tf.constant(initial, dtype),
        autocast=False,
    )


@keras.saving.register_keras_serializable(package="rope")
class MixedRotaryEmbedding(keras.layers.Layer):
    """Learned 2-D frequencies of each head, mixing rows and columns (RoPE-ViT, arXiv 2403.13298).

    Create one for each attention layer. The frequencies are a float32 weight under every dtype policy;
    exclude it from weight decay, which would shrink them towards 0.

    Args:
        num_heads, dim, theta: as for `mixed_frequencies`.
        layout: `interleaved` or `half`, see `rope.rotation`.
        turn_axes: initialize each head with axes rotated by a random angle, instead of axial.
        seed: seed of the random angles.

    Call arguments:
        positions: (..., 2) coordinates in cells, such as from `grid_positions`.

    Returns:
        (num_heads, ..., dim) table of angles for `apply_rotary_emb`, float32.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> mixed = MixedRotaryEmbedding(num_heads=3, dim=8)
    >>> queries = tf.random.normal((2, 3, 35, 8))  # (batch, heads, height * width, head_dim)
    >>> mixed.rotate(queries, mixed.table(grid_positions(5, 7))).shape
    TensorShape([2, 3, 35, 8])
    """

    def __init__(
        self,
        num_heads: int,
        dim: int,
        *,
        theta: float = 10.0,
        layout: str = "interleaved",
        turn_axes: bool = True,
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False)
        check_layout(layout)
        if num_heads < 1:
            raise ValueError(f"num_heads must be >= 1, got {num_heads}.")
        self.num_heads, self.dim, self.layout = num_heads, dim, layout
        rotations = {"turn_axes": turn_axes, "seed": seed}
        self._config = {"num_heads": num_heads, "dim": dim, "theta": theta, "layout": layout, **rotations}
        turns = np.zeros(num_heads)
        if turn_axes:
            turns = np.random.default_rng(seed).uniform(0, 2 * np.pi, num_heads)
        initial = mixed_frequencies(num_heads, dim, theta=theta, turns=turns)
        self.frequencies = add_frequencies(self, initial)
        self.built = True

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        return doubled(self.angles(positions), layout=self.layout)

    def angles(self, positions: tf.Tensor) -> tf.Tensor:
        """(num_heads, ..., dim / 2) angles in radians of (..., 2) positions, float32."""
        positions = tf.convert_to_tensor(positions)
        if positions.shape[-1] != 2:
            raise ValueError(f"positions must have 2 coordinates, got shape {positions.shape}.")
        frequencies = tf.reshape(self.frequencies, (2, -1))  # (2, num_heads * dim / 2)
        # A sum of products, because a matrix product may run in TF32 on a GPU.
        angles = rotary_angles(positions[..., 0], frequencies[0])  # (..., num_heads * dim / 2)
        angles += rotary_angles(positions[..., 1], frequencies[1])
        return tf.stack(tf.split(angles, self.num_heads, axis=-1))  # (num_heads, ..., dim / 2)

    def table(self, positions: tf.Tensor) -> tf.Tensor:
        """(num_heads, ..., dim / 2) table for `rotate`."""
        return rotary_table(self.angles(positions))

    def rotate(self, x: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """Rotates (batch, num_heads, length, dim) queries or keys by a table of this embedding."""
        return rotate(x, table, layout=self.layout)

    def get_config(self) -> dict:
        return {"name": self.name, **self._config}
