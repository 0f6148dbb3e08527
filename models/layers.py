"""Blocks of the transformers: attention, feed-forward, dropout.

Shape words: batch, length, heads, kv_heads, head_dim, dim. `keys_length` is the length of the keys, which
in a cached decode is longer than that of the queries.
"""

from collections.abc import Callable
from functools import partial

import keras
import tensorflow as tf

from models.cache import LayerCache
from models.feed_forward import FeedForward, projection
from models.fused import RMSNorm, score_gradients
from models.rotations import LearnedRotations
from rope.positions import size_of
from rope.rotation import rotary_table, rotate


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Zeroes features at `rate` and scales up the rest, by `seed` (2,) alone; the identity without a seed."""
    return _dropped(x, rate, seed, tf.shape(x))


def drop_path(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Zeroes whole examples, entries of axis 0, at `rate` and scales up the rest, as `dropout` does features.

    On what a block adds, this is stochastic depth (Huang et al. 2016, arXiv 1603.09382).
    """
    return _dropped(x, rate, seed, [tf.shape(x)[0]] + [1] * (x.shape.rank - 1))


def _dropped(x, rate, seed, shape):
    if seed is None or rate == 0:
        return x
    # Drawn in float32: bfloat16 draws are multiples of 1/128, and so would be the rate.
    keep = tf.random.stateless_uniform(shape, seed, alg="philox") >= rate
    return tf.where(keep, x / (1 - rate), tf.zeros_like(x))


def fold_in(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """A seed of its own for part `number` of what `seed` (2,) stands for."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)


def recomputed(block: Callable[..., tf.Tensor], x: tf.Tensor, *, tables, **rest) -> tf.Tensor:
    """`block(x, tables=tables, **rest)`, of which the backward pass keeps `x` alone and makes the rest again.

    No gradient flows to `rest` (Chen et al. 2016, arXiv 1604.06174).
    """
    leaves = tf.nest.flatten(tables)

    def run(x, *given):
        given = iter(given)
        filled = [None if leaf is None else next(given) for leaf in leaves]
        return block(x, tables=tf.nest.pack_sequence_as(tables, filled), **rest)

    return tf.recompute_grad(run)(x, *(leaf for leaf in leaves if leaf is not None))


class Attention(keras.layers.Layer):
    """Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over rotated queries and keys.

    Args:
        num_heads, num_kv_heads: query heads, and the heads of keys and values that groups of them share.
        head_dim: features of a head.
        qk_norm: RMS-normalise queries and keys, each with a gain, before they are rotated.
        layout: pair layout of the rotation.
        learned_rotations: `none`, `per_token` or `cumulative`, see `LearnedRotations`.
        norm_epsilon: of the QK-norm.
        input_stddev, output_stddev: of the initial queries, keys and values, and of the output projection.
        num_unrotated: tokens at the start that learned rotations leave alone.

    Call arguments:
        x: (batch, length, dim).
        bias: additive, broadcastable to (batch, heads, length, keys_length); holds the causal mask. None lets
            every token look at all.
        tables: rotary tables of queries and of keys, broadcastable to (batch, heads, length, rotated
            features); None without rotary positions.
        cache: keys and values so far, or None.
        kernel: of queries, keys and values, in place of `attend` with the bias.

    Returns:
        (batch, length, dim), and the cache with this call's keys and values written in.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        qk_norm: bool,
        layout: str,
        learned_rotations: str,
        norm_epsilon: float,
        input_stddev: float,
        output_stddev: float,
        dtype,
        name: str,
        num_unrotated: int = 0,
    ):
        # autocast would hand the rotary table over in the compute dtype.
        super().__init__(dtype=dtype, name=name, autocast=False)
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.layout = layout
        dim = num_heads * head_dim
        self.qkv = projection(
            (num_heads + 2 * num_kv_heads) * head_dim, stddev=input_stddev, dtype=dtype, name="qkv"
        )
        self.output_projection = projection(dim, stddev=output_stddev, dtype=dtype, name="output")
        self.query_norm = self.key_norm = None
        if qk_norm:
            self.query_norm = RMSNorm(epsilon=norm_epsilon, dtype=dtype, name="query_norm")
            self.key_norm = RMSNorm(epsilon=norm_epsilon, dtype=dtype, name="key_norm")

        self.rotations = None
        if learned_rotations != "none":
            self.rotations = LearnedRotations(
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                cumulative=learned_rotations == "cumulative",
                num_unrotated=num_unrotated,
                name="learned_rotations",
            )
        self.built = True  # its parts build themselves; Keras would trace the call to do it

    def call(
        self,
        x: tf.Tensor,
        *,
        bias: tf.Tensor | None = None,
        tables: tuple[tf.Tensor, tf.Tensor] | None,
        cache: LayerCache | None = None,
        kernel: Callable[..., tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, LayerCache | None]:
        batch, length = size_of(x, 0), size_of(x, 1)
        qkv = tf.reshape(self.qkv(x), (batch, length, self.num_heads + 2 * self.num_kv_heads, self.head_dim))
        qkv = tf.transpose(qkv, (0, 2, 1, 3))  # (batch, heads + 2 kv_heads, length, head_dim)
        queries, keys, values = tf.split(qkv, (self.num_heads, self.num_kv_heads, self.num_kv_heads), axis=1)
        if self.query_norm is not None:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.rotations is not None:
            angles, cache = self.rotations(x, cache=cache)
            tables = self._with_learned(tables, angles)
        if tables is not None:
            query_table, key_table = tables
            queries = rotate(queries, query_table, layout=self.layout)
            keys = rotate(keys, key_table, layout=self.layout)
        if cache is not None:
            cache = cache.write(keys, values)
            keys, values = cache.keys, cache.values
        kernel = kernel or partial(attend, bias=bias)
        mixed = tf.transpose(kernel(queries, keys, values), (0, 2, 1, 3))
        return self.output_projection(
            tf.reshape(mixed, (batch, length, self.num_heads * self.head_dim))
        ), cache

    def _with_learned(self, tables, angles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tables turned further by (batch, kv_heads, length, head_dim / 2) learned angles."""
        of_keys = rotary_table(angles)
        of_queries = tf.repeat(of_keys, self.num_heads // self.num_kv_heads, axis=1)
        if tables is None:
            return of_queries, of_keys
        return tables[0] * of_queries, tables[1] * of_keys


def attend(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, bias: tf.Tensor | None = None
) -> tf.Tensor:
    """Softmax attention; consecutive query heads share a head of keys and values.

    Args:
        queries: (batch, heads, length, head_dim).
        keys, values: (batch, kv_heads, keys_length, head_dim); kv_heads divides heads.
        bias: added to the scores, broadcastable to (batch, heads, length, keys_length); no gradient flows
            to it.

    Returns:
        (batch, heads, length, head_dim).
    """
    batch, heads, length, head_dim = (size_of(queries, axis) for axis in range(4))
    kv_heads, keys_length = keys.shape[1], size_of(keys, 2)
    scale = tf.cast(keys.shape[-1] ** -0.5, keys.dtype)
    if queries.shape[2] == 1:
        queries *= scale  # less to write than the keys of a whole cache
    else:
        # The keys carry the scale: on the queries or the scores, TensorFlow 2.21 fuses it into a oneDNN
        # kernel that is hundreds of times slower.
        keys *= scale
    # One matmul for the queries of a group: the keys are not repeated.
    grouped = tf.reshape(queries, (batch, kv_heads, -1, head_dim))

    @tf.custom_gradient
    def attended(grouped, keys, values):
        scores = tf.matmul(grouped, keys, transpose_b=True)
        if bias is not None:
            scores = tf.reshape(scores, (batch, heads, length, keys_length))
            scores = tf.cast(scores, bias.dtype) + bias
        # TensorFlow's softmax sums bfloat16 rows in float32.
        weights = tf.cast(tf.nn.softmax(scores), values.dtype)
        weights = tf.reshape(weights, (batch, kv_heads, -1, keys_length))
        mixed = tf.matmul(weights, values)

        def gradients(upstream):
            of_weights = tf.matmul(upstream, values, transpose_b=True)
            of_scores = score_gradients(weights, of_weights, mixed, upstream)
            return (
                tf.matmul(of_scores, keys),
                tf.matmul(of_scores, grouped, transpose_a=True),
                tf.matmul(weights, upstream, transpose_a=True),
            )

        return mixed, gradients

    return tf.reshape(attended(grouped, keys, values), (batch, heads, length, head_dim))


class Block(keras.layers.Layer):
    """Pre-norm transformer block: attention, then feed-forward, each added to the residual stream.

    Args and call arguments are those of `Attention` and `FeedForward`, and

        dropout_rate: on what each of the two adds.
        seed: (2,) int32 for the dropout of this call, or None for none.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        mlp_dim: int,
        qk_norm: bool,
        layout: str,
        learned_rotations: str,
        norm_epsilon: float,
        input_stddev: float,
        output_stddev: float,
        dropout_rate: float,
        dtype,
        name: str,
    ):
        super().__init__(dtype=dtype, name=name, autocast=False)
        self.dropout_rate = dropout_rate
        self.attention_norm = RMSNorm(epsilon=norm_epsilon, dtype=dtype, name="attention_norm")
        self.attention = Attention(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            qk_norm=qk_norm,
            layout=layout,
            learned_rotations=learned_rotations,
            norm_epsilon=norm_epsilon,
            input_stddev=input_stddev,
            output_stddev=output_stddev,
            dtype=dtype,
            name="attention",
        )
        self.mlp_norm = RMSNorm(epsilon=norm_epsilon, dtype=dtype, name="mlp_norm")
        self.mlp = FeedForward(
            dim=num_heads * head_dim,
            mlp_dim=mlp_dim,
            input_stddev=input_stddev,
            output_stddev=output_stddev,
            dtype=dtype,
            name="mlp",
        )
        self.built = True  # its parts build themselves; Keras would trace the call to do it

    def call(
        self,
        x: tf.Tensor,
        *,
        bias: tf.Tensor | None = None,
        tables: tuple[tf.Tensor, tf.Tensor] | None,
        cache: LayerCache | None = None,
        kernel: Callable[..., tf.Tensor] | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, LayerCache | None]:
        normed = self.attention_norm(x)
        mixed, cache = self.attention(normed, bias=bias, tables=tables, cache=cache, kernel=kernel)
        x += dropout(mixed, self.dropout_rate, fold_in(seed, 0))
        x += dropout(self.mlp(self.mlp_norm(x)), self.dropout_rate, fold_in(seed, 1))
        return x, cache
