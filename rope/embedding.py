"""The rotary embedding as one stateless object."""

import keras
import tensorflow as tf

from rope.frequencies import language_frequencies
from rope.rotation import LAYOUTS, RotaryTable, rotary_angles, rotary_table, rotate


class RotaryEmbedding(keras.layers.Layer):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) with explicit positions.

    Holds no cache: a table is a pure function of the positions. Angles, sines and products are float32
    under every dtype policy.

    Args:
        dim: number of rotated features, even: the size of a head.
        theta: rotation base.
        layout: `interleaved` or `half`, see `rope.rotation`.
        interpolate_factor: divides the positions, so that a context that many times longer spans the
            angles seen in training (Chen et al. 2023, arXiv 2306.15595); at least 1.

    Call arguments:
        positions: (..., length) positions in tokens, int32 or float32.

    Returns:
        (..., length, dim / 2) angles in radians, float32.

    Raises:
        ValueError: if an argument is out of its range.

    Example:

    >>> rotary = RotaryEmbedding(dim=8)
    >>> queries = tf.random.normal((2, 3, 5, 8))  # (batch, heads, length, head_dim)
    >>> rotary.rotate_queries_or_keys(queries).shape
    TensorShape([2, 3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        theta: float = 10_000.0,
        layout: str = "interleaved",
        interpolate_factor: float = 1.0,
        name: str | None = None,
    ):
        # Without autocast=False a mixed policy hands over positions in bfloat16.
        super().__init__(name=name, autocast=False, trainable=False)
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")
        if not interpolate_factor >= 1:
            raise ValueError(f"interpolate_factor must be >= 1, got {interpolate_factor}.")
        self.dim = dim
        self.theta = theta
        self.layout = layout
        self.interpolate_factor = interpolate_factor
        self.frequencies = language_frequencies(dim, theta=theta) / interpolate_factor
        self.built = True

    def call(self, positions: tf.Tensor) -> tf.Tensor:
        return rotary_angles(positions, self.frequencies)

    def table(self, positions: tf.Tensor) -> RotaryTable:
        """(..., length, dim) table for `rotate`, to be shared by the layers of a model."""
        return rotary_table(self(positions), layout=self.layout)

    def rotate(self, x: tf.Tensor, table: RotaryTable) -> tf.Tensor:
        """Rotates (..., length, dim) queries or keys by a table of this embedding."""
        return rotate(x, table, layout=self.layout)

    def rotate_queries_or_keys(
        self, x: tf.Tensor, *, positions: tf.Tensor | None = None, offset: int | tf.Tensor = 0
    ) -> tf.Tensor:
        """Rotates queries or keys by their positions.

        Args:
            x: (..., length, dim).
            positions: (..., length), int32 or float32; 0, 1, 2, ... when not given. Their leading axes
                broadcast against those of `x`: (batch, 1, length) where the positions of examples differ.
            offset: added to the positions: the number of tokens already in a cache.

        Returns:
            The rotated tensor, with the shape and dtype of `x`.

        Raises:
            ValueError: if there are not as many positions as `x` is long.
            TypeError: if `positions` are bfloat16 or float16.
        """
        if positions is None:
            positions = tf.range(tf.shape(x)[-2])
        positions = tf.convert_to_tensor(positions)
        if not positions.shape[-1:].is_compatible_with(x.shape[-2:-1]):
            raise ValueError(
                f"x of shape {x.shape} needs {x.shape[-2]} positions, got shape {positions.shape}."
            )
        return self.rotate(x, self.table(positions + offset))

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "dim": self.dim,
            "theta": self.theta,
            "layout": self.layout,
            "interpolate_factor": self.interpolate_factor,
        }
