"""Layers with the names and arguments of other packages."""

from typing import Any

import keras
import tensorflow as tf

from rope.embedding import RotaryEmbedding


@keras.saving.register_keras_serializable(package="rope")
class RoPE(keras.layers.Layer):
    """`RoPE` of rope_tensorflow: rotates one tensor without xPos, a pair of queries and keys with xPos.

    Args:
        dim: number of rotated features, even; the others pass through.
        theta, interpolate_factor, theta_rescale_factor, xpos_scale_base, xpos_max_length: as for
            `RotaryEmbedding`.

    Call arguments:
        x: (..., length, features), or a list or tuple of queries and keys.

    Returns:
        The rotated tensor, or a tuple of rotated queries and keys.

    Example:

    >>> rotary = RoPE(dim=32)
    >>> rotary.rotate(tf.random.normal((1, 128, 64))).shape
    TensorShape([1, 128, 64])
    """

    def __init__(
        self,
        dim: int,
        *,
        theta: float = 10_000.0,
        interpolate_factor: float = 1.0,
        theta_rescale_factor: float = 1.0,
        xpos_scale_base: float = 512.0,
        xpos_max_length: int = 4_096,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False, trainable=False)
        shared: dict[str, Any] = {
            "dim": dim,
            "theta": theta,
            "interpolate_factor": interpolate_factor,
            "theta_rescale_factor": theta_rescale_factor,
        }
        xpos: dict[str, Any] = {"xpos_scale_base": xpos_scale_base, "xpos_max_length": xpos_max_length}
        self._config = {**shared, **xpos}
        self.plain = RotaryEmbedding(**shared)
        self.with_xpos = RotaryEmbedding(**shared, **xpos, use_xpos=True)
        self.built = True

    def call(self, x: tf.Tensor | list[tf.Tensor]) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        return self.rotate(x)

    def rotate(self, x: tf.Tensor | list[tf.Tensor]) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Rotates `x` at positions 0, 1, 2, ... along axis -2; `[queries, keys]` with xPos."""
        if not isinstance(x, list | tuple):
            return self.plain.rotate_queries_or_keys(x)
        queries, keys = x
        return self.with_xpos.rotate_queries_and_keys(queries, keys)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, **self._config}
