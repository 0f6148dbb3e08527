"""Positions other than rotary ones, and the causal mask, as pure functions."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MASKED = -1e9


def sinusoidal_embedding(positions: tf.Tensor, dim: int) -> tf.Tensor:
    """Sines and cosines of Vaswani et al. 2017, arXiv 1706.03762: sine at even features, cosine at odd ones.

    Args:
        positions: (..., length).
        dim: features, even.

    Returns:
        (..., length, dim) float32.
    """
    frequencies = tf.constant(10_000.0 ** (-np.arange(0, dim, 2) / dim), tf.float32)
    angles = tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies
    pairs = tf.stack([tf.sin(angles), tf.cos(angles)], axis=-1)
    return tf.reshape(pairs, tf.concat([tf.shape(positions), [dim]], axis=0))


def alibi_slopes(num_heads: int) -> np.ndarray:
    """(num_heads,) slopes of ALiBi, Press et al. 2021, arXiv 2108.12409.

    A geometric sequence from 2^(-8/n) for a power of two n; for other counts, that of the next lower power
    of two, continued by every other slope of the next higher one, as in the authors' code.
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 / lower * np.arange(1, lower + 1))
    between = 2.0 ** (-4.0 / lower * np.arange(1, 2 * lower + 1, 2))
    return np.concatenate([slopes, between])[:num_heads].astype(np.float32)


def alibi_bias(query_columns: tf.Tensor, key_columns: tf.Tensor, num_heads: int) -> tf.Tensor:
    """Bias against distance: (num_heads, length, keys_length) float32, from the (length,) column numbers."""
    distance = tf.cast(query_columns[:, tf.newaxis] - key_columns[tf.newaxis, :], tf.float32)
    return -alibi_slopes(num_heads)[:, np.newaxis, np.newaxis] * distance


def causal_bias(
    query_columns: tf.Tensor, key_columns: tf.Tensor, padding: tf.Tensor | None, dtype
) -> tf.Tensor:
    """Bias that hides later columns, and the padding at the left of each row.

    Args:
        query_columns, key_columns: (length,) and (keys_length,) column numbers.
        padding: (batch,) padding columns of each row, or None for none.
        dtype: of the result.

    Returns:
        (batch or 1, 1, length, keys_length): 0 where a query may look, a large negative number elsewhere.
    """
    visible = (key_columns[tf.newaxis, :] <= query_columns[:, tf.newaxis])[tf.newaxis, tf.newaxis]
    if padding is not None:
        visible &= (key_columns[tf.newaxis, :] >= padding[:, tf.newaxis])[:, tf.newaxis, tf.newaxis]
    return tf.where(visible, tf.cast(0, dtype), tf.cast(MASKED, dtype))


def block_bias(query_columns: tf.Tensor, key_columns: tf.Tensor, block: int, dtype) -> tf.Tensor:
    """Bias that hides what lies before the last block; with `causal_bias`, the blockwise causal attention of
    Sun et al. 2022, arXiv 2212.10554.

    Args:
        query_columns, key_columns: (length,) and (keys_length,) column numbers.
        block: columns of a block, at least 1; a query sees its own block and the one before it.
        dtype: of the result.

    Returns:
        (1, 1, length, keys_length): 0 where a query may look, a large negative number elsewhere.
    """
    if block < 1:
        raise ValueError(f"a block of attention must be at least 1 column, got {block}.")
    is_near = key_columns[tf.newaxis, :] // block >= query_columns[:, tf.newaxis] // block - 1
    return tf.where(is_near, tf.cast(0, dtype), tf.cast(MASKED, dtype))[tf.newaxis, tf.newaxis]


def segment_bias(
    segment_ids: tf.Tensor, query_columns: tf.Tensor, key_columns: tf.Tensor, dtype
) -> tf.Tensor:
    """(batch, 1, length, keys_length) bias that hides the other documents of a packed row.

    Args:
        segment_ids: (batch, columns) integers, equal within a document.
        query_columns, key_columns: (length,) and (keys_length,) column numbers.
        dtype: of the result.
    """
    of_queries, of_keys = (tf.gather(segment_ids, at, axis=1) for at in (query_columns, key_columns))
    is_same = of_queries[:, tf.newaxis, :, tf.newaxis] == of_keys[:, tf.newaxis, tf.newaxis, :]
    return tf.where(is_same, tf.cast(0, dtype), tf.cast(MASKED, dtype))


class CausalMask(NamedTuple):
    """The bias of a text as a rule, of which any rows and columns can be made.

    dtype: of the bias; with ALiBi it is float32, in bfloat16 distances past 256 run together.
    alibi_heads: query heads, for a bias against distance; None for none.
    padding: (batch,) padding columns at the left of each row; None for none.
    block: see `block_bias`; None for all columns.
    segment_ids: (batch, columns), see `segment_bias`; None for one document a row.
    """

    dtype: str
    alibi_heads: int | None = None
    padding: tf.Tensor | None = None
    block: int | None = None
    segment_ids: tf.Tensor | None = None

    @property
    def hides_later_alone(self) -> bool:
        """Whether each row sees all columns up to its own, and nothing tells them apart."""
        return all(part is None for part in self[1:])

    def bias(self, query_columns: tf.Tensor, key_columns: tf.Tensor) -> tf.Tensor:
        """Broadcastable to (batch, heads, length, keys_length), from the numbers of the columns."""
        dtype = self.dtype if self.alibi_heads is None else tf.float32
        bias = causal_bias(query_columns, key_columns, self.padding, dtype)
        if self.alibi_heads is not None:
            bias += alibi_bias(query_columns, key_columns, self.alibi_heads)
        if self.block is not None:
            bias += block_bias(query_columns, key_columns, self.block, dtype)
        if self.segment_ids is not None:
            bias += segment_bias(self.segment_ids, query_columns, key_columns, dtype)
        return bias
