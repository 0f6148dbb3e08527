"""Attention layer of both models, with rotated queries and keys, and the cache of its keys and values.

Shape words: batch, length, heads, kv_heads, head_dim, dim; capacity is the number of columns of the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from models.kernels import NORM_EPSILON, RMSNorm
from rope.positions import size_of
from rope.rotation import compose, compute_cos_sin, rotate

# `cos_sin` of queries and of keys, see `rope.rotation.rotate`.
CosSinPair = tuple[tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class BlockOptions:
    """Options that all blocks of a model share."""

    dim: int  # features of the residual stream
    num_heads: int  # query heads
    num_kv_heads: int  # heads of keys and values, each shared by a group of query heads
    head_dim: int
    mlp_dim: int  # hidden features of the feed-forward layer
    input_stddev: float  # initial weights of the layers that read from the residual stream
    output_stddev: float  # initial weights of the layers that write to it
    attention: str = "full"  # or `axial`: within the rows of a grid, then within its columns
    layout: str = "interleaved"  # pair layout of the rotation, or `half`
    norm_epsilon: float = NORM_EPSILON
    qkv_bias: bool = False  # biases of queries, keys and values
    qk_norm: bool = False  # RMS-normalise queries and keys, with learned scales, before the rotation
    learned_rotations: str = "none"  # or `per_token`, `cumulative`, see `LearnedRotations`
    num_unrotated: int = 0  # leading tokens without learned rotations, such as a class token
    dropout: float = 0.0  # rate of dropout on each branch


class LayerCache(NamedTuple):
    """Rotated keys and values of one layer, immutable; columns from `start` on are not yet written."""

    keys: tf.Tensor  # (batch, kv_heads, capacity, head_dim)
    values: tf.Tensor  # (batch, kv_heads, capacity, head_dim)
    start: tf.Tensor  # () int32, number of columns written, padding included
    padding: tf.Tensor  # (batch,) int32, number of padding columns at the left of each row
    rotation: tf.Tensor  # (batch, kv_heads, head_dim / 2) float32 sum of cumulative rotations, or zeros

    def write(self, keys: tf.Tensor, values: tf.Tensor) -> "LayerCache":
        """Writes (batch, kv_heads, length, head_dim) keys and values to columns `start` onwards."""
        # XLA performs a scatter in place, and needs no static slice sizes for it.
        batch, kv_heads, length, _ = tf.unstack(tf.shape(keys))
        columns = self.start + tf.range(length)
        indices = tf.meshgrid(tf.range(batch), tf.range(kv_heads), columns, indexing="ij")
        indices = tf.stack(indices, axis=-1)  # (batch, kv_heads, length, 3)
        return self._replace(
            keys=tf.tensor_scatter_nd_update(self.keys, indices, keys),
            values=tf.tensor_scatter_nd_update(self.values, indices, values),
            start=self.start + length,
        )


class Attention(keras.layers.Layer):
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) with rotated queries and keys.

    Arguments as for `Block`. Takes and returns (batch, length, dim), and the cache.
    """

    def __init__(self, options: BlockOptions, *, dtype, name: str):
        super().__init__(dtype=dtype, name=name, autocast=False)
        self.options = options
        features = (options.num_heads + 2 * options.num_kv_heads) * options.head_dim
        stddev = options.output_stddev
        self.qkv = projection(
            features, stddev=options.input_stddev, use_bias=options.qkv_bias, dtype=dtype, name="qkv"
        )
        self.output_projection = projection(options.dim, stddev=stddev, dtype=dtype, name="output")
        self.query_norm = self.key_norm = self.rotations = None
        if options.qk_norm:
            self.query_norm = RMSNorm(options.norm_epsilon, dtype=dtype, name="query_norm")
            self.key_norm = RMSNorm(options.norm_epsilon, dtype=dtype, name="key_norm")
        if options.learned_rotations != "none":
            self.rotations = LearnedRotations(options, name="learned_rotations")
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        *,
        cos_sin: CosSinPair | None,
        kernel: Callable[..., tf.Tensor],
        cache: LayerCache | None = None,
    ) -> tuple[tf.Tensor, LayerCache | None]:
        heads, kv_heads, head_dim = self.options.num_heads, self.options.num_kv_heads, self.options.head_dim
        batch, length = size_of(x, 0), size_of(x, 1)
        qkv = tf.reshape(self.qkv(x), (batch, length, heads + 2 * kv_heads, head_dim))
        qkv = tf.transpose(qkv, (0, 2, 1, 3))  # (batch, heads + 2 * kv_heads, length, head_dim)
        # queries (batch, heads, length, head_dim); keys and values (batch, kv_heads, length, head_dim)
        queries, keys, values = tf.split(qkv, (heads, kv_heads, kv_heads), axis=1)
        if self.query_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.rotations is not None:
            angles, cache = self.rotations(x, cache=cache)  # (batch, kv_heads, length, head_dim / 2)
            cos_sin = self._add_rotations(cos_sin, angles)
        if cos_sin:
            queries = rotate(queries, cos_sin[0], layout=self.options.layout)
            keys = rotate(keys, cos_sin[1], layout=self.options.layout)
        if cache is not None:
            cache = cache.write(keys, values)
            keys, values = cache.keys, cache.values  # (batch, kv_heads, capacity, head_dim)
        mixed = tf.transpose(kernel(queries, keys, values), (0, 2, 1, 3))  # (batch, length, heads, head_dim)
        mixed = tf.reshape(mixed, (batch, length, heads * head_dim))
        return self.output_projection(mixed), cache  # (batch, length, dim)

    def _add_rotations(self, cos_sin: CosSinPair | None, angles: tf.Tensor) -> CosSinPair:
        keys = compute_cos_sin(angles)  # (batch, kv_heads, length, head_dim / 2, 2)
        group = self.options.num_heads // self.options.num_kv_heads
        queries = tf.repeat(keys, group, axis=1)  # (batch, heads, length, head_dim / 2, 2)
        return (compose(cos_sin[0], queries), compose(cos_sin[1], keys)) if cos_sin else (queries, keys)


class LearnedRotations(keras.layers.Layer):
    """Rotation angles computed from the activations (batch, length, dim), float32 under every dtype policy.

    Zero initial weights: a new model equals the one without them. Returns (batch, kv_heads, length,
    head_dim / 2) radians, which a group of query heads shares, and the cache. `cumulative` sums them along
    the sequence, without those of padding; the cache holds the sum.
    """

    def __init__(self, options: BlockOptions, *, name: str):
        super().__init__(dtype="float32", name=name, autocast=False)
        self.options = options
        self.projection = keras.layers.Dense(
            options.num_kv_heads * options.head_dim // 2,
            use_bias=False,
            kernel_initializer="zeros",
            dtype="float32",
            name="projection",
        )
        self.built = True

    def call(self, x: tf.Tensor, cache: LayerCache | None = None) -> tuple[tf.Tensor, LayerCache | None]:
        batch, length = tf.unstack(tf.shape(x)[:2])
        shape = (batch, length, self.options.num_kv_heads, self.options.head_dim // 2)
        angles = tf.reshape(self.projection(x), shape)
        angles = tf.transpose(angles, (0, 2, 1, 3))  # (batch, kv_heads, length, head_dim / 2)
        if self.options.num_unrotated:
            is_rotated = tf.range(length) >= self.options.num_unrotated
            angles *= tf.cast(is_rotated, tf.float32)[:, tf.newaxis]
        if self.options.learned_rotations != "cumulative":
            return angles, cache
        if cache is None:
            return tf.cumsum(angles, axis=2), None
        columns = cache.start + tf.range(length)
        is_real = columns[tf.newaxis, :] >= cache.padding[:, tf.newaxis]  # (batch, length)
        angles *= tf.cast(is_real, tf.float32)[:, tf.newaxis, :, tf.newaxis]
        sums = cache.rotation[:, :, tf.newaxis] + tf.cumsum(angles, axis=2)
        return sums, cache._replace(rotation=sums[:, :, -1])


def projection(features: int, *, stddev: float, use_bias=False, dtype, name: str) -> keras.layers.Dense:
    """A dense layer with normally distributed initial weights."""
    normal = keras.initializers.RandomNormal(stddev=stddev)
    return keras.layers.Dense(features, use_bias=use_bias, kernel_initializer=normal, dtype=dtype, name=name)
