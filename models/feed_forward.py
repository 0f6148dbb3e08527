"""The feed-forward part of a transformer block."""

import keras
import tensorflow as tf

from models.fused import gated


def projection(features: int, *, stddev: float, dtype, name: str) -> keras.layers.Dense:
    """A dense layer without bias, with normal initial weights."""
    initializer = keras.initializers.RandomNormal(stddev=stddev)
    return keras.layers.Dense(
        features, use_bias=False, kernel_initializer=initializer, dtype=dtype, name=name
    )


class FeedForward(keras.layers.Layer):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): (silu(x W_gate) * x W_up) W_down, dim -> mlp_dim -> dim."""

    def __init__(
        self,
        *,
        dim: int,
        mlp_dim: int,
        input_stddev: float,
        output_stddev: float,
        dtype,
        name: str,
    ):
        super().__init__(dtype=dtype, name=name)
        self.gate_and_up = projection(2 * mlp_dim, stddev=input_stddev, dtype=dtype, name="gate_and_up")
        self.down = projection(dim, stddev=output_stddev, dtype=dtype, name="down")

    def build(self, input_shape):
        self.gate_and_up.build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # The kernel is cut in two, not the product: it is the smaller by far.
        gate, up = tf.split(tf.cast(self.gate_and_up.kernel, self.compute_dtype), 2, axis=-1)
        return self.down(gated(tf.tensordot(x, gate, 1), tf.tensordot(x, up, 1)))
