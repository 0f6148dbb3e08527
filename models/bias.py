"""Attention biases (causal mask, ALiBi), and sinusoidal positions.

Shape words: batch, heads, dim; length is the number of queries, keys_length the number of keys. Columns are
the indices of tokens in a row of the batch, padding included: (length,) and (keys_length,) int32.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MASKED = -1e9


def sinusoidal_embedding(positions: tf.Tensor, dim: int) -> tf.Tensor:
    """Sinusoidal positions (Vaswani et al. 2017, arXiv 1706.03762): sine at even features, cosine at odd.

    Args:
        positions: (..., length).
        dim: number of features, even.

    Returns:
        (..., length, dim) float32.
    """
    frequencies = tf.constant(10_000.0 ** (-np.arange(0, dim, 2) / dim), tf.float32)
    angles = tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies  # (..., length, dim / 2)
    pairs = tf.stack([tf.sin(angles), tf.cos(angles)], axis=-1)  # (..., length, dim / 2, 2)
    return tf.reshape(pairs, tf.concat([tf.shape(positions), [dim]], axis=0))


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

    @property
    def is_causal_only(self) -> bool:
        return all(part is None for part in self[1:])

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
            visible &= (query_ids[:, :, tf.newaxis] == key_ids[:, tf.newaxis])[:, tf.newaxis]
        dtype = self.dtype if self.alibi_heads is None else tf.float32
        bias = tf.where(visible, tf.cast(0, dtype), tf.cast(MASKED, dtype))
        if self.alibi_heads is not None:
            bias += alibi_bias(query_columns, key_columns, self.alibi_heads)  # (batch or 1, heads, ...)
        return bias
