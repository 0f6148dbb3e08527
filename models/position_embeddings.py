"""Sinusoidal positions of tokens and of patches, and learned positions resized to another grid.

Shape words: length; rows, columns of patches; dim.
"""

import keras
import numpy as np
import tensorflow as tf


def sinusoidal_embedding(positions: tf.Tensor, dim: int) -> tf.Tensor:
    """(..., length, dim) float32 sines and cosines, alternating (Vaswani et al. 2017, arXiv 1706.03762)."""
    frequencies = tf.constant(10_000.0 ** (-np.arange(0, dim, 2) / dim), tf.float32)
    angles = tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies  # (..., length, dim / 2)
    pairs = tf.stack([tf.sin(angles), tf.cos(angles)], axis=-1)  # (..., length, dim / 2, 2)
    return tf.reshape(pairs, tf.concat([tf.shape(positions), [dim]], axis=0))


def sinusoidal_grid(rows: int | tf.Tensor, columns: int | tf.Tensor, dim: int) -> tf.Tensor:
    """(rows, columns, dim) float32: half of the features for the row, half for the column, as in MoCo v3."""
    row_features = sinusoidal_embedding(tf.range(rows), dim // 2)[:, tf.newaxis]  # (rows, 1, dim / 2)
    column_features = sinusoidal_embedding(tf.range(columns), dim // 2)[tf.newaxis]  # (1, columns, dim / 2)
    shape = (rows, columns, dim // 2)
    features = [tf.broadcast_to(x, shape) for x in (row_features, column_features)]
    return tf.concat(features, axis=-1)  # (rows, columns, dim)


def resize(x: tf.Tensor, sizes: tuple, *, axes: tuple[int, ...], method: str) -> tf.Tensor:
    """`tf.image.resize` with antialiasing along any axes, in operations that XLA, LiteRT and ONNX know."""
    shape = list(x.shape)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    scale = tf.cast(sizes, tf.float32) / tf.cast(tf.gather(tf.shape(x), axes), tf.float32)
    return keras.ops.image.scale_and_translate(x, shape, scale, tf.zeros_like(scale), axes, method)
