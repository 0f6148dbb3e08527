"""Operations whose backward pass is compiled to few loops, each of which goes over memory once.

In a graph every multiplication, cast and sum is a pass over memory of its own, and they outweigh the matmuls
of a small model. The forward pass stays plain TensorFlow: it is called with many shapes, and XLA compiles
anew for each.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf


def compiled_in_graphs(function: Callable) -> Callable:
    """`function`, compiled by XLA where a graph is traced; eagerly each new shape would be compiled."""
    compiled = tf.function(function, jit_compile=True, reduce_retracing=True)

    @functools.wraps(function)
    def call(*args):
        return (function if tf.executing_eagerly() else compiled)(*args)

    return call


def gated(gate: tf.Tensor, up: tf.Tensor) -> tf.Tensor:
    """silu(gate) * up, of one shape."""

    @tf.custom_gradient
    def product(gate, up):
        def gradients(upstream):
            return _gated_gradients(gate, up, upstream)

        return tf.nn.silu(gate) * up, gradients

    return product(gate, up)


@compiled_in_graphs
def _gated_gradients(gate, up, upstream):
    dtype = gate.dtype
    gate, up, upstream = (tf.cast(x, tf.float32) for x in (gate, up, upstream))
    sigmoid = tf.sigmoid(gate)
    activated = gate * sigmoid
    slope = sigmoid + activated * (1 - sigmoid)
    return tf.cast(upstream * up * slope, dtype), tf.cast(upstream * activated, dtype)


@compiled_in_graphs
def score_gradients(weights, of_weights, mixed, upstream):
    """Gradient of the scores whose softmax are the weights, (..., queries, keys).

    What comes off each row, the sum of weights * of_weights, is that of upstream * mixed (FlashAttention, Dao
    et al. 2022, arXiv 2205.14135).

    Args:
        weights, of_weights: (..., queries, keys), and the gradient of it.
        mixed, upstream: (..., queries, head_dim) weights * values, and the gradient of it.
    """
    mixed, upstream = tf.cast(mixed, tf.float32), tf.cast(upstream, tf.float32)
    along = tf.reduce_sum(mixed * upstream, axis=-1, keepdims=True)
    of_scores = tf.cast(weights, tf.float32) * (tf.cast(of_weights, tf.float32) - along)
    return tf.cast(of_scores, weights.dtype)


class RMSNorm(keras.layers.Layer):
    """`rms_normalized` with a learned scale, initially 1."""

    def __init__(self, *, epsilon: float, dtype, name: str):
        super().__init__(dtype=dtype, name=name)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(
            shape=input_shape[-1:], initializer="ones", dtype="float32", autocast=False, name="scale"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return rms_normalized(x, tf.convert_to_tensor(self.scale), self.epsilon)


def rms_normalized(x: tf.Tensor, scale: tf.Tensor, epsilon: float) -> tf.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467).

    Computed in float32 and cast last.

    Args:
        x: (..., dim).
        scale: (dim,) float32.
    """

    @tf.custom_gradient
    def normalized(x, scale):
        wide = tf.cast(x, tf.float32)

        def gradients(upstream):
            rows = (tf.reshape(part, (-1, scale.shape[0])) for part in (x, upstream))
            of_rows, of_scale = _rms_gradients(*rows, scale, epsilon)
            return tf.reshape(of_rows, tf.shape(x)), of_scale

        return tf.cast(wide * _inverse_rms(wide, epsilon) * scale, x.dtype), gradients

    return normalized(x, scale)


@compiled_in_graphs
def _rms_gradients(x, upstream, scale, epsilon):
    dtype = x.dtype
    x, upstream = tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
    inverse = _inverse_rms(x, epsilon)
    normed, of_normed = x * inverse, upstream * scale
    along = tf.reduce_mean(normed * of_normed, axis=-1, keepdims=True)
    of_scale = tf.reduce_sum(upstream * normed, axis=0)
    return tf.cast(inverse * (of_normed - normed * along), dtype), of_scale


def _inverse_rms(x, epsilon):
    return tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + epsilon)
