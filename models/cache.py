"""Static cache of keys and values for decoding, as immutable tensors.

Shape words: batch, length, kv_heads, head_dim; capacity is the number of columns of the cache.
"""

from typing import NamedTuple

import tensorflow as tf


class LayerCache(NamedTuple):
    """Rotated keys and values of one layer; columns from `start` on are not yet written."""

    keys: tf.Tensor  # (batch, kv_heads, capacity, head_dim)
    values: tf.Tensor  # (batch, kv_heads, capacity, head_dim)
    start: tf.Tensor  # () int32, number of columns written
    padding: tf.Tensor  # (batch,) int32, number of padding columns at the left of each row
    rotation: tf.Tensor | None = None  # (batch, kv_heads, head_dim / 2) float32 sum of cumulative rotations

    def write(self, keys: tf.Tensor, values: tf.Tensor) -> "LayerCache":
        """Writes (batch, kv_heads, length, head_dim) keys and values to columns `start` onwards."""
        return self._replace(
            keys=_write_columns(self.keys, keys, self.start),
            values=_write_columns(self.values, values, self.start),
            start=self.start + tf.shape(keys)[2],
        )


class Cache(NamedTuple):
    """Keys and values of all layers; the tuples have one entry for each layer."""

    keys: tuple[tf.Tensor, ...]  # (batch, kv_heads, capacity, head_dim)
    values: tuple[tf.Tensor, ...]  # (batch, kv_heads, capacity, head_dim)
    length: tf.Tensor  # () int32, number of columns written, padding included
    padding: tf.Tensor  # (batch,) int32, number of padding columns at the left of each row
    rotations: tuple[tf.Tensor, ...] = ()  # (batch, kv_heads, head_dim / 2) float32; empty if not cumulative

    def layer(self, index: int) -> LayerCache:
        rotation = self.rotations[index] if self.rotations else None
        return LayerCache(self.keys[index], self.values[index], self.length, self.padding, rotation)


def _write_columns(store: tf.Tensor, columns: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    # XLA performs a scatter in place, and needs no static slice sizes for it.
    batch, heads, length, _ = tf.unstack(tf.shape(columns))
    indices = tf.meshgrid(tf.range(batch), tf.range(heads), start + tf.range(length), indexing="ij")
    indices = tf.stack(indices, axis=-1)  # (batch, kv_heads, length, 3)
    return tf.tensor_scatter_nd_update(store, indices, columns)  # (batch, kv_heads, capacity, head_dim)
