"""Rotations that a model learns from its activations."""

import keras
import tensorflow as tf

from models.cache import LayerCache


class LearnedRotations(keras.layers.Layer):
    """Angles of rotation from the activations themselves, beside or instead of those of the positions.

    A dense layer that starts at zero, so that a new model is the one without it. Float32 under every policy.

    Args:
        num_kv_heads: heads of keys; a group of query heads shares the angles of its keys.
        head_dim: features of a head, even.
        cumulative: add the angles up along the sequence, so that what is learned is a speed; padding adds
            nothing, and the sum so far is kept in the cache.
        num_unrotated: tokens at the start that get no angles, such as a class token.

    Call arguments:
        x: (batch, length, dim).
        cache: of this layer, or None.

    Returns:
        (batch, num_kv_heads, length, head_dim / 2) radians, float32, and the cache with the new sum.
    """

    def __init__(
        self, *, num_kv_heads: int, head_dim: int, cumulative: bool, name: str, num_unrotated: int = 0
    ):
        super().__init__(dtype="float32", name=name, autocast=False)
        self.num_kv_heads, self.num_pairs, self.cumulative = num_kv_heads, head_dim // 2, cumulative
        self.num_unrotated = num_unrotated
        self.projection = keras.layers.Dense(
            num_kv_heads * self.num_pairs,
            use_bias=False,
            kernel_initializer="zeros",
            dtype="float32",
            name="projection",
        )
        self.built = True  # its parts build themselves; Keras would trace the call to do it

    def call(self, x: tf.Tensor, cache: LayerCache | None = None) -> tuple[tf.Tensor, LayerCache | None]:
        batch, length = tf.unstack(tf.shape(x)[:2])
        angles = tf.reshape(self.projection(x), (batch, length, self.num_kv_heads, self.num_pairs))
        angles = tf.transpose(angles, (0, 2, 1, 3))
        if self.num_unrotated:
            is_rotated = tf.range(length) >= self.num_unrotated
            angles *= tf.cast(is_rotated, tf.float32)[:, tf.newaxis]
        if not self.cumulative:
            return angles, cache
        if cache is None:
            return tf.cumsum(angles, axis=2), None
        columns = cache.start + tf.range(length)
        is_real = columns[tf.newaxis, :] >= cache.padding[:, tf.newaxis]
        angles *= tf.cast(is_real, tf.float32)[:, tf.newaxis, :, tf.newaxis]
        sums = cache.rotation[:, :, tf.newaxis] + tf.cumsum(angles, axis=2)
        return sums, cache._replace(rotation=sums[:, :, -1])
