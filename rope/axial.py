"""Rotary embeddings over several axes: rows and columns of an image, frames of a video.

Shape words: axes, the coordinates of a position; length, the positions, such as the cells of a flattened
grid; dim, the rotated features of a head.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rope.embedding import PositionLayer, RotaryEmbedding, own_arguments
from rope.frequencies import language_frequencies
from rope.positions import check_positions
from rope.rotation import check_layout, compute_cos_sin, doubled, rotary_angles, rotate


@keras.saving.register_keras_serializable(package="rope")
class AxialRotaryEmbedding(PositionLayer):
    """Rotary embedding of positions with several coordinates: one block of pairs for each (RoPE-ViT).

    Args:
        embeddings: `RotaryEmbedding` of each coordinate, with its own frequencies and scaling, in one layout
            and with one `seq_before_head_dim`, without xPos.
        name, dtype, trainable: as for every Keras layer.

    Call arguments:
        positions: (length, axes) or (batch, length, axes) coordinates, integer or float32, such as from
            `grid_positions`.

    Returns:
        (..., length, dim) float32 angles; dim is the sum over `embeddings`.

    Example:

    >>> from rope import grid_positions
    >>> axial = AxialRotaryEmbedding([RotaryEmbedding(4, theta=100.0), RotaryEmbedding(4, theta=100.0)])
    >>> queries = tf.random.normal((2, 3, 35, 8))  # (batch, heads, height * width, head_dim)
    >>> axial.rotate(queries, axial.cos_sin(grid_positions(5, 7))).shape
    TensorShape([2, 3, 35, 8])
    """

    def __init__(
        self,
        embeddings: Sequence[RotaryEmbedding],
        *,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.supports_masking = True
        if not embeddings or not all(isinstance(part, RotaryEmbedding) for part in embeddings):
            raise ValueError(f"embeddings must be a RotaryEmbedding for each axis, got {embeddings}.")
        if len({(part.layout, part.default_seq_dim) for part in embeddings}) > 1:
            raise ValueError(f"embeddings must have one layout and seq_before_head_dim, got {embeddings}.")
        if any(part.use_xpos for part in embeddings):
            raise ValueError("xPos decays along one causal axis, got several. Set use_xpos=False.")
        if not trainable:
            for part in embeddings:
                part.trainable = False
        self.embeddings, self._config = list(embeddings), {}
        self.layout, self.dim = embeddings[0].layout, sum(part.dim for part in embeddings)
        self.built = True

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        for embedding in self.embeddings:
            embedding.check_has_only_angles()
        return doubled(self.angles(positions), layout=self.layout)

    def angles(self, positions: tf.Tensor) -> tf.Tensor:
        """(..., length, dim / 2) angles in radians, float32, at (..., length, axes) positions."""
        return tf.concat([part.angles(x) for part, x in self._by_axis(positions)], axis=-1)

    def cos_sin(self, positions: tf.Tensor) -> tf.Tensor:
        """As `RotaryEmbedding.cos_sin`, at (length, axes) or (batch, length, axes) positions."""
        return tf.concat([part.cos_sin(x) for part, x in self._by_axis(positions)], axis=-2)

    def rotate(self, x: tf.Tensor, cos_sin: tf.Tensor) -> tf.Tensor:
        """Rotates (..., length, head_dim) queries or keys by a `cos_sin` of this embedding."""
        return self.embeddings[0].rotate(x, cos_sin)

    def get_config(self) -> dict[str, Any]:
        embeddings = [keras.saving.serialize_keras_object(part) for part in self.embeddings]
        return {**super().get_config(), "embeddings": embeddings}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "AxialRotaryEmbedding":
        embeddings = [keras.saving.deserialize_keras_object(part) for part in config["embeddings"]]
        return super().from_config({**config, "embeddings": embeddings})

    def _by_axis(self, positions: tf.Tensor) -> Iterable[tuple[RotaryEmbedding, tf.Tensor]]:
        return zip(self.embeddings, coordinates_of(positions, len(self.embeddings)), strict=True)


def coordinates_of(positions: tf.Tensor, axes: int) -> list[tf.Tensor]:
    """(..., length) float32 positions along each axis, from (..., length, axes)."""
    positions = tf.cast(check_positions(positions), tf.float32)
    if positions.shape.rank not in (2, 3) or positions.shape[-1] != axes:
        raise ValueError(f"positions must be ([batch,] length, {axes}), got shape {positions.shape}.")
    return tf.unstack(positions, axis=-1)


def mixed_frequencies(dim: int, turns: np.ndarray, *, theta: float = 10.0) -> np.ndarray:
    """(2, num_heads, dim / 2) initial frequencies of RoPE-ViT, in radians per cell along each coordinate.

    `turns` are (num_heads,) rotations of the axes of each head in radians; 0 is axial. The magnitudes are
    theta^(-4i / dim) for heads of `dim` features.
    """
    if dim < 4 or dim % 4:
        raise ValueError(f"dim must be a positive multiple of 4 for 2-D frequencies, got {dim}.")
    magnitudes = np.tile(language_frequencies(dim // 2, theta=theta), 2)  # (dim / 2,)
    directions = np.repeat(np.add.outer(turns, [0, np.pi / 2]), dim // 4, axis=-1)  # (num_heads, dim / 2)
    return magnitudes * np.stack([np.cos(directions), np.sin(directions)])


@keras.saving.register_keras_serializable(package="rope")
class MixedRotaryEmbedding(PositionLayer):
    """Learned 2-D frequencies of each head, mixing rows and columns (RoPE-ViT, arXiv 2403.13298).

    Create one for each attention layer. Exclude the weight, which is always float32, from weight decay.

    Args:
        num_heads: number of heads, each with frequencies of its own.
        dim: features of a head, a multiple of 4.
        theta: rotation base.
        layout: `interleaved` or `half`, see `rope.rotation`.
        turn_axes: initialize each head with axes rotated by a random angle, instead of axial.
        seed: seed of the random angles.
        interpolate_factor: divides each coordinate, as for `RotaryEmbedding`.
        name, dtype, trainable: as for every Keras layer.

    Call arguments:
        positions: (length, 2) or (batch, length, 2) coordinates in cells, such as from `grid_positions`.

    Returns:
        ([batch,] num_heads, length, dim) angles for `apply_rotary_emb`, float32.

    Example:

    >>> from rope import grid_positions
    >>> mixed = MixedRotaryEmbedding(num_heads=3, dim=8)
    >>> queries = tf.random.normal((2, 3, 35, 8))  # (batch, heads, height * width, head_dim)
    >>> mixed.rotate(queries, mixed.cos_sin(grid_positions(5, 7))).shape
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
        interpolate_factor: Sequence[float] = (1.0, 1.0),
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        check_layout(layout)
        if num_heads < 1:
            raise ValueError(f"num_heads must be >= 1, got {num_heads}.")
        if len(interpolate_factor) != 2 or not min(interpolate_factor) >= 1:
            raise ValueError(f"interpolate_factor must be two factors >= 1, got {interpolate_factor}.")
        self.num_heads, self.dim, self.layout = num_heads, dim, layout
        self.interpolate_factor = interpolate_factor = tuple(interpolate_factor)
        self._config = own_arguments(locals())
        generator = np.random.default_rng(seed)
        turns = generator.uniform(0, 2 * np.pi, num_heads) if turn_axes else np.zeros(num_heads)
        self.frequencies = self.add_frequencies(mixed_frequencies(dim, turns, theta=theta))
        self.built = True

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        return doubled(self.angles(positions), layout=self.layout)

    def angles(self, positions: tf.Tensor) -> tf.Tensor:
        """([batch,] num_heads, length, dim / 2) angles in radians at ([batch,] length, 2), float32."""
        axes = zip(coordinates_of(positions, 2), self.interpolate_factor, strict=True)
        first, second = (axis / factor for axis, factor in axes)  # ([batch,] length) each
        frequencies = tf.reshape(self.frequencies, (2, -1))  # (2, num_heads * dim / 2)
        # A sum of products, because a matrix product may run in TF32 on a GPU.
        angles = rotary_angles(first, frequencies[0]) + rotary_angles(second, frequencies[1])
        return tf.stack(tf.split(angles, self.num_heads, axis=-1), axis=-3)

    def cos_sin(self, positions: tf.Tensor) -> tf.Tensor:
        """(1 or batch, num_heads, length, dim / 2, 2) for `rotate` at ([batch,] length, 2) positions."""
        cos_sin = compute_cos_sin(self.angles(positions))
        return cos_sin if cos_sin.shape.rank == 5 else cos_sin[tf.newaxis]

    def rotate(self, x: tf.Tensor, cos_sin: tf.Tensor) -> tf.Tensor:
        """Rotates (batch, num_heads, length, head_dim) queries or keys by a `cos_sin` of this embedding."""
        return rotate(x, cos_sin, layout=self.layout)
