"""SwiGLU, RMSNorm and attention with hand-written gradients, and the biases of attention.

In a graph each multiplication, cast and sum is a separate pass over memory, and together they cost more than
the matmuls of a small model. XLA fuses the backward pass of each kernel into a few loops. The forward pass is
not compiled: it is called with many shapes, and XLA compiles once for each.

Shape words: batch, heads, kv_heads, length, head_dim, dim; keys_length is the number of keys, and
group = heads / kv_heads the number of query heads that share a head of keys and values.
Columns are the indices of tokens in a row of the batch, padding included: (length,) and (keys_length,) int32.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from rope.positions import size_of
from rope.private_tensorflow import in_plain_operations

NORM_EPSILON = 1e-5
MASKED = -1e9  # added to the score of a hidden key


def compile_in_graphs(function: Callable) -> Callable:
    """Compiles `function` with XLA in graphs, but not in eager calls, where each new shape would compile."""
    compiled = tf.function(function, jit_compile=True, autograph=False, reduce_retracing=True)

    def call(*args):
        is_plain = tf.executing_eagerly() or in_plain_operations()
        return (function if is_plain else compiled)(*args)

    return call


# AutoGraph would convert a decorated function without its custom gradient.
@tf.autograph.experimental.do_not_convert
@tf.custom_gradient
def gated(gate: tf.Tensor, up: tf.Tensor) -> tf.Tensor:
    """silu(gate) * up, for two tensors of one shape."""
    return tf.nn.silu(gate) * up, lambda d_product: _gated_gradients(gate, up, d_product)


@compile_in_graphs
def _gated_gradients(gate, up, d_product):
    # s = sigmoid(gate):   d_gate = d_product * up * (s + gate * s * (1 - s)),   d_up = d_product * gate * s
    dtype = gate.dtype
    gate, up, d_product = (tf.cast(x, tf.float32) for x in (gate, up, d_product))
    sigmoid = tf.sigmoid(gate)
    activated = gate * sigmoid
    slope = sigmoid + activated * (1 - sigmoid)
    return tf.cast(d_product * up * slope, dtype), tf.cast(d_product * activated, dtype)


class RMSNorm(keras.layers.Layer):
    """`rms_normalize` with a learned scale, initially 1."""

    def __init__(self, epsilon: float = NORM_EPSILON, *, dtype, name: str):
        super().__init__(dtype=dtype, name=name)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(
            shape=input_shape[-1:], initializer="ones", dtype="float32", autocast=False, name="scale"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return rms_normalize(x, tf.convert_to_tensor(self.scale), epsilon=self.epsilon)


@tf.autograph.experimental.do_not_convert
def rms_normalize(x: tf.Tensor, scale: tf.Tensor, *, epsilon: float = NORM_EPSILON) -> tf.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467).

    (..., dim) like `x`, computed in float32 and cast last; `scale` is (dim,) float32.
    """

    def gradients(d_normed):
        rows = (tf.reshape(part, (-1, scale.shape[0])) for part in (x, d_normed))  # (rows, dim) each
        d_rows, d_scale = _rms_gradients(*rows, scale, epsilon)
        return tf.reshape(d_rows, tf.shape(x)), d_scale

    @tf.custom_gradient
    def normalize(x, scale):
        wide = tf.cast(x, tf.float32)
        return tf.cast(wide * _inverse_rms(wide, epsilon) * scale, x.dtype), gradients

    return normalize(x, scale)


@compile_in_graphs
def _rms_gradients(x, d_normed, scale, epsilon):
    # r = 1 / rms(x), n = x * r, g = d_normed * scale:
    # d_x = r * (g - n * mean(n * g)),   d_scale = sum(d_normed * n)
    dtype = x.dtype
    x, d_normed = tf.cast(x, tf.float32), tf.cast(d_normed, tf.float32)
    inverse = _inverse_rms(x, epsilon)
    normed, d_unscaled = x * inverse, d_normed * scale
    row_means = tf.reduce_mean(normed * d_unscaled, axis=-1, keepdims=True)  # (rows, 1)
    d_scale = tf.reduce_sum(d_normed * normed, axis=0)  # (dim,)
    return tf.cast(inverse * (d_unscaled - normed * row_means), dtype), d_scale


def _inverse_rms(x, epsilon):
    return tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + epsilon)  # (..., 1)


def attention_weights(queries: tf.Tensor, keys: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """(batch, heads, length, keys_length) float32 softmax weights; arguments as for `attend`."""
    keys = tf.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)  # (batch, heads, keys_length, head_dim)
    queries, keys = tf.cast(queries, tf.float32), tf.cast(keys, tf.float32)
    scores = tf.matmul(queries, keys, transpose_b=True) * keys.shape[-1] ** -0.5
    return tf.nn.softmax(scores if bias is None else scores + tf.cast(bias, tf.float32))


def attend(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """Softmax attention; consecutive query heads share a head of keys and values.

    Args:
        queries: (batch, heads, length, head_dim).
        keys, values: (batch, kv_heads, keys_length, head_dim); kv_heads divides heads.
        bias: added to the scores, broadcastable to (batch, heads, length, keys_length); receives no gradient.

    Returns:
        (batch, heads, length, head_dim).
    """
    batch, heads, length, head_dim = (size_of(queries, axis) for axis in range(4))
    kv_heads, keys_length = keys.shape[1], size_of(keys, 2)
    scale = tf.cast(keys.shape[-1] ** -0.5, keys.dtype)
    if queries.shape[2] == 1:
        queries *= scale  # one query is smaller than a cache of keys
    else:
        # The keys are scaled: with scaled queries or scores, TensorFlow 2.21 fuses the scale into a oneDNN
        # kernel that is hundreds of times slower.
        keys *= scale
    # One matmul serves the queries of a group, and the keys are not repeated.
    shape = (batch, kv_heads, -1, head_dim)
    grouped = tf.reshape(queries, shape)  # (batch, kv_heads, group * length, head_dim)
    output = _grouped_attention(grouped, keys, values, bias, shape=(batch, heads, length, keys_length))
    return tf.reshape(output, (batch, heads, length, head_dim))


def _grouped_attention(queries, keys, values, bias, *, shape):
    """(batch, kv_heads, group * length, head_dim) output; the bias is added to scores of `shape`."""

    @tf.custom_gradient
    def attention(queries, keys, values):
        scores = tf.matmul(queries, keys, transpose_b=True)  # (batch, kv_heads, group * length, keys_length)
        if bias is not None:
            scores = tf.reshape(scores, shape)  # (batch, heads, length, keys_length)
            scores = tf.cast(scores, bias.dtype) + bias
        # TensorFlow's softmax sums bfloat16 rows in float32.
        weights = tf.cast(tf.nn.softmax(scores), values.dtype)
        batch, _, _, keys_length = shape
        weights = tf.reshape(weights, (batch, keys.shape[1], -1, keys_length))
        output = tf.matmul(weights, values)

        def gradients(d_output):
            # dV = P^T dO,   dP = dO V^T,   dQ = dS K,   dK = dS^T Q, with dS from `_softmax_gradient`
            d_weights = tf.matmul(d_output, values, transpose_b=True)
            d_scores = _softmax_gradient(weights, d_weights, output, d_output)
            return (
                tf.matmul(d_scores, keys),
                tf.matmul(d_scores, queries, transpose_a=True),
                tf.matmul(weights, d_output, transpose_a=True),
            )

        return output, gradients

    return attention(queries, keys, values)


@compile_in_graphs
def _softmax_gradient(weights, d_weights, output, d_output):
    # dS = P * (dP - rowsum(dO * O))   (FlashAttention, Dao et al. 2022, arXiv 2205.14135, section 3.1)
    output, d_output = tf.cast(output, tf.float32), tf.cast(d_output, tf.float32)
    row_sums = tf.reduce_sum(output * d_output, axis=-1, keepdims=True)  # (..., group * length, 1)
    d_scores = tf.cast(weights, tf.float32) * (tf.cast(d_weights, tf.float32) - row_sums)
    return tf.cast(d_scores, weights.dtype)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """(num_heads,) slopes of ALiBi (Press et al. 2021, arXiv 2108.12409).

    For a power of two n, the geometric sequence from 2^(-8/n). For other counts, the slopes of the next lower
    power of two, followed by every other slope of the next higher one, as in the authors' code.
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 / lower * np.arange(1, lower + 1))
    between = 2.0 ** (-4.0 / lower * np.arange(1, 2 * lower + 1, 2))
    return np.concatenate([slopes, between])[:num_heads].astype(np.float32)


def alibi_bias(query_columns: tf.Tensor, key_columns: tf.Tensor, num_heads: int) -> tf.Tensor:
    """(num_heads, length, keys_length) float32 bias, linear in the distance between query and key."""
    distance = tf.cast(query_columns[:, tf.newaxis] - key_columns[tf.newaxis, :], tf.float32)
    return -alibi_slopes(num_heads)[:, np.newaxis, np.newaxis] * distance


class CausalMask(NamedTuple):
    """Attention mask that computes its bias for any query and key columns.

    With `block`, the blockwise causal attention of Sun et al. 2022, arXiv 2212.10554: a query attends to its
    own block of columns and the previous one.
    """

    dtype: str  # dtype of the bias; float32 with ALiBi: bfloat16 cannot tell distance 256 from 257
    alibi_heads: int | None = None  # number of query heads, for an ALiBi bias
    padding: tf.Tensor | None = None  # (batch,) number of padding columns at the left of each row
    block: int | None = None  # columns in a block
    segment_ids: tf.Tensor | None = None  # (batch, columns) integers, equal within a document

    def bias(self, query_columns: tf.Tensor, key_columns: tf.Tensor) -> tf.Tensor:
        """Bias broadcastable to (batch, heads, length, keys_length); a large negative number hides a key."""
        queries, keys = query_columns[:, tf.newaxis], key_columns[tf.newaxis, :]
        visible = keys <= queries  # (length, keys_length)
        if self.block is not None:
            visible &= keys // self.block >= queries // self.block - 1
        visible = visible[tf.newaxis, tf.newaxis]  # (1, 1, length, keys_length)
        if self.padding is not None:
            visible &= (keys >= self.padding[:, tf.newaxis])[:, tf.newaxis, tf.newaxis]
        if self.segment_ids is not None:
            query_ids = tf.gather(self.segment_ids, query_columns, axis=1)  # (batch, length)
            key_ids = tf.gather(self.segment_ids, key_columns, axis=1)  # (batch, keys_length)
            visible &= (tf.expand_dims(query_ids, 2) == key_ids[:, tf.newaxis])[:, tf.newaxis]
        dtype = self.dtype if self.alibi_heads is None else tf.float32
        bias = tf.where(visible, tf.cast(0, dtype), tf.cast(MASKED, dtype))
        if self.alibi_heads is not None:
            bias += alibi_bias(query_columns, key_columns, self.alibi_heads)  # (batch or 1, heads, ...)
        return bias
