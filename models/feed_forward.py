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
        if x.shape[1] == 1:
            gate, up = tf.split(self.gate_and_up(x), 2, axis=-1)
        else:
            # The kernel is cut in two instead of the product, which is larger by far.
            gate, up = (tf.tensordot(x, part, 1) for part in tf.split(self._kernel(), 2, axis=-1))
        return self.down(gated(gate, up))

    def _kernel(self) -> tf.Tensor:
        return tf.cast(self.gate_and_up.kernel, self.compute_dtype)
