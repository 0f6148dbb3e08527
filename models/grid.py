"""Patches of an image, the positions of their grid, and positions added to tokens and patches.

Shape words: batch, length, height, width, channels in pixels; rows, columns of patches; head_dim, dim.
"""

import numpy as np
import tensorflow as tf

from rope.positions import size_of
from rope.rotation import compute_cos_sin


def extract_patches(images: tf.Tensor, size: int) -> tf.Tensor:
    """(batch, height, width, channels) to (batch, rows, columns, size * size * channels)."""
    batch, rows, columns = tf.shape(images)[0], size_of(images, 1) // size, size_of(images, 2) // size
    channels = images.shape[-1]
    patches = tf.reshape(images, (batch, rows, size, columns, size, channels))
    patches = tf.transpose(patches, (0, 1, 3, 2, 4, 5))  # (batch, rows, columns, size, size, channels)
    return tf.reshape(patches, (batch, rows, columns, size * size * channels))


def prepend_unrotated(cos_sin: tf.Tensor) -> tf.Tensor:
    """(..., 1 + length, head_dim / 2, 2) `cos_sin` that leaves the first token unrotated."""
    unrotated = compute_cos_sin(tf.zeros_like(cos_sin[..., :1, :, 0]))  # (..., 1, head_dim / 2, 2)
    return tf.concat([unrotated, cos_sin], axis=-3)


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


def sinusoidal_grid(rows: int | tf.Tensor, columns: int | tf.Tensor, dim: int) -> tf.Tensor:
    """(rows, columns, dim) float32: half of the features for the row, half for the column, as in MoCo v3."""
    row_features = sinusoidal_embedding(tf.range(rows), dim // 2)[:, tf.newaxis]  # (rows, 1, dim / 2)
    column_features = sinusoidal_embedding(tf.range(columns), dim // 2)[tf.newaxis]  # (1, columns, dim / 2)
    shape = (rows, columns, dim // 2)
    features = [tf.broadcast_to(x, shape) for x in (row_features, column_features)]
    return tf.concat(features, axis=-1)  # (rows, columns, dim)


def resample_grid(embedding: tf.Tensor, rows: int | tf.Tensor, columns: int | tf.Tensor) -> tf.Tensor:
    """Resizes a grid of embeddings to (rows, columns, dim) float32 by antialiased cubic interpolation.

    Equal to `tf.image.resize`, which XLA cannot compile.
    """
    row_weights = cubic_weights(rows, embedding.shape[0])
    column_weights = cubic_weights(columns, embedding.shape[1])
    return tf.einsum("ir,jc,rcd->ijd", row_weights, column_weights, embedding)  # (rows, columns, dim)


def cubic_weights(size: int | tf.Tensor, source: int) -> tf.Tensor:
    """(size, source) float32 weights that resample `source` points to `size`: Keys' cubic with a = -1/2."""
    distance = resampling_distances(size, source)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = tf.where(distance <= 1, near, tf.where(distance < 2, far, 0.0))
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def triangle_weights(size: int, source: int | tf.Tensor) -> tf.Tensor:
    """(size, source) float32 weights of the antialiased bilinear resize of `tf.image.resize`."""
    weights = tf.maximum(1 - resampling_distances(size, source), 0)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def resampling_distances(size: int | tf.Tensor, source: int | tf.Tensor) -> tf.Tensor:
    """(size, source) float32 distances of the points, in units of the width of the kernel."""
    points = tf.range(tf.cast(source, tf.float32))
    ratio = tf.cast(source, tf.float32) / tf.cast(size, tf.float32)
    centres = (tf.range(size, dtype=tf.float32) + 0.5) * ratio - 0.5
    # When downsampling, the kernel is widened to cover all source points.
    return abs(centres[:, tf.newaxis] - points) / tf.maximum(ratio, 1.0)
