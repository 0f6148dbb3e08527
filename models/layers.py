"""Blocks of the transformers: attention, feed-forward, dropout.

Shape words: batch, length, heads, kv_heads, head_dim, dim. `keys_length` is the length of the keys, which
in a cached decode is longer than that of the queries.
"""

import keras
import tensorflow as tf

from models.cache import LayerCache
from models.rotations import LearnedRotations
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


def projection(features: int, *, stddev: float, dtype, name: str) -> keras.layers.Dense:
    """A dense layer without bias, with normal initial weights."""
    initializer = keras.initializers.RandomNormal(stddev=stddev)
    return keras.layers.Dense(
        features, use_bias=False, kernel_initializer=initializer, dtype=dtype, name=name
    )


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
            self.query_norm = keras.layers.RMSNormalization(
                epsilon=norm_epsilon, dtype=dtype, name="query_norm"
            )
            self.key_norm = keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=dtype, name="key_norm")

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
    ) -> tuple[tf.Tensor, LayerCache | None]:
        batch, length = tf.unstack(tf.shape(x)[:2])
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
        mixed = tf.transpose(attend(queries, keys, values, bias), (0, 2, 1, 3))
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
        bias: added to the scores, broadcastable to (batch, heads, length, keys_length).

    Returns:
        (batch, heads, length, head_dim).
    """
    batch, heads, length, head_dim = tf.unstack(tf.shape(queries))
    kv_heads, keys_length = keys.shape[1], tf.shape(keys)[2]
    # The keys carry the scale: on the queries or the scores, TensorFlow 2.21 fuses it into a oneDNN kernel
    # that is hundreds of times slower.
    keys *= tf.cast(keys.shape[-1] ** -0.5, keys.dtype)
    # One matmul for the queries of a group: the keys are not repeated.
    grouped = tf.reshape(queries, (batch, kv_heads, -1, head_dim))
    scores = tf.reshape(tf.matmul(grouped, keys, transpose_b=True), (batch, heads, length, keys_length))
    if bias is not None:
        scores = tf.cast(scores, bias.dtype) + bias
    # TensorFlow's softmax sums bfloat16 rows in float32.
    weights = tf.cast(tf.nn.softmax(scores), values.dtype)
    mixed = tf.matmul(tf.reshape(weights, (batch, kv_heads, -1, keys_length)), values)
    return tf.reshape(mixed, (batch, heads, length, head_dim))


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
        self.built = True  # its parts build themselves; Keras would trace the call to do it

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gate, up = tf.split(self.gate_and_up(x), 2, axis=-1)
        return self.down(tf.nn.silu(gate) * up)


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
        self.attention_norm = keras.layers.RMSNormalization(
            epsilon=norm_epsilon, dtype=dtype, name="attention_norm"
        )
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
        self.mlp_norm = keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=dtype, name="mlp_norm")
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
        bias: tf.Tensor,
        tables: tuple[tf.Tensor, tf.Tensor] | None,
        cache: LayerCache | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, LayerCache | None]:
        mixed, cache = self.attention(self.attention_norm(x), bias=bias, tables=tables, cache=cache)
        x += dropout(mixed, self.dropout_rate, fold_in(seed, 0))
        x += dropout(self.mlp(self.mlp_norm(x)), self.dropout_rate, fold_in(seed, 1))
        return x, cache
