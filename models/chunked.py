"""Attention in tiles of queries and keys: exact, with memory proportional to the length, compiled by XLA.

The scores of a tile stay in the cache of the processor, where XLA fuses mask, exponential and sums.

Shape words: batch, heads, kv_heads, length, head_dim; group = heads / kv_heads is the number of query heads
that share a head of keys and values. A tile is (kv_heads, group * size, head_dim): `size` consecutive tokens
of a row of the batch, with group = 1 for keys and values.
"""

import math

import tensorflow as tf

from models.kernels import MASKED, CausalMask, attend
from rope.positions import size_of
from rope.private_tensorflow import in_plain_operations
from system.command import available_cores

TILE = 128  # maximum number of tokens in a tile: the scores of 4 heads are 256 kB
# Length from which on `auto` computes attention in tiles, which XLA compiles in 1 to 2 s.
AUTO_LENGTH = {"float32": 256, "bfloat16": 512, "float16": 512}  # by compute dtype


def is_chunked(kernel: str, length: int | None, dtype: str) -> bool:
    """Whether attention over `length` tokens is computed in tiles; None for a length that is not yet known.

    The kernel is `full`, `chunked`, or `auto`, which takes tiles on a CPU for lengths where they are faster,
    and for unknown ones. Never in float64, nor under `plain_operations`: converters need static shapes.
    """
    if in_plain_operations() or dtype not in AUTO_LENGTH:
        return False
    is_long = length is None or length >= AUTO_LENGTH[dtype]
    return kernel == "chunked" or (kernel == "auto" and is_long and not tf.config.list_logical_devices("GPU"))


def attend_in_chunks(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: CausalMask | None = None
) -> tf.Tensor:
    """Self-attention equal to `attend`, in memory proportional to the length.

    Computed in float32; the backward pass recomputes the weights (FlashAttention, Dao et al. 2022, arXiv
    2205.14135). Shapes are those of `attend`; `mask` computes the bias of each tile.
    """
    if queries.shape[0] == 0:
        return attend(queries, keys, values)  # XLA compiles no loop without tiles
    length, head_dim = size_of(queries, 2), queries.shape[3]
    num_tiles = -(-length // TILE)
    # XLA compiles each shape: outside a graph of known length, many lengths share one.
    size = TILE if tf.is_tensor(length) or tf.executing_eagerly() else -(-length // num_tiles)
    padding = num_tiles * size - length
    if mask is not None and mask.segment_ids is not None:
        mask = mask._replace(segment_ids=tf.pad(mask.segment_ids, ((0, 0), (0, padding))))
    # Groups of heads are computed at the same time, each in its own thread. ALiBi differs between heads.
    is_alike = mask is None or mask.alibi_heads is None
    groups = math.gcd(keys.shape[1], available_cores()) if is_alike else 1

    def split(x):
        x = tf.pad(x, ((0, 0), (0, 0), (0, padding), (0, 0)))
        return tf.split(tf.reshape(x, (-1, x.shape[1], num_tiles, size, head_dim)), groups, axis=1)

    parts = zip(*map(split, (queries, keys, values)), strict=True)
    outputs = [_attend_in_tiles(*part, mask, tf.convert_to_tensor(length)) for part in parts]
    output = tf.reshape(tf.concat(outputs, axis=1), (-1, queries.shape[1], num_tiles * size, head_dim))
    return output[:, :, :length]


@tf.function(autograph=False, jit_compile=True)
def _attend_in_tiles(queries, keys, values, mask, length):
    """(batch, heads, num_tiles, size, head_dim) output of queries, keys and values of such shapes."""

    @tf.custom_gradient
    def attention(queries, keys, values):
        output, log_sums = _Tiles(queries, keys, values, mask, length).attend()

        def gradients(d_output):
            # A new object: XLA needs sizes that it can compute from the shapes of arguments.
            return _Tiles(queries, keys, values, mask, length).gradients(d_output, output, log_sums)

        return output, gradients

    return attention(queries, keys, values)


class _Tiles:
    """Queries, scaled keys and values in float32 tiles, (batch * num_tiles, *tile), row after row.

    Below, `index` is the number of a tile of queries, and `other` that of a tile of keys and values.
    """

    def __init__(self, queries, keys, values, mask, length):
        self.dtype, self.mask, self.length = queries.dtype, mask, length
        self.heads, self.kv_heads, self.head_dim = queries.shape[1], keys.shape[1], keys.shape[4]
        self.num_tiles, self.size = size_of(queries, 2), size_of(queries, 3)
        self.scale = self.head_dim**-0.5
        self.queries, self.values = self.split(queries), self.split(values)
        self.keys = self.split(keys) * self.scale

    def split(self, x: tf.Tensor) -> tf.Tensor:
        """(batch, heads or kv_heads, num_tiles, size, head_dim) to tiles."""
        group = x.shape[1] // self.kv_heads
        shape = (-1, self.kv_heads, group, self.num_tiles, self.size, self.head_dim)
        x = tf.transpose(tf.reshape(tf.cast(x, tf.float32), shape), (0, 3, 1, 2, 4, 5))
        return tf.reshape(x, (-1, self.kv_heads, group * self.size, self.head_dim))

    def join(self, x: tf.Tensor, heads: int) -> tf.Tensor:
        """The inverse of `split`."""
        shape = (-1, self.num_tiles, self.kv_heads, heads // self.kv_heads, self.size, self.head_dim)
        x = tf.transpose(tf.reshape(x, shape), (0, 2, 3, 1, 4, 5))
        return tf.cast(tf.reshape(x, (-1, heads, self.num_tiles, self.size, self.head_dim)), self.dtype)

    def attend(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(batch, heads, num_tiles, size, head_dim) output, and tiles of the log-sum-exp of the scores."""
        # Maximum, sum and output of the tiles so far (Milakov and Gimelshein 2018, arXiv 1805.02867).
        zero_output = tf.zeros_like(self.queries[0])
        zero_sum = zero_output[..., :1]  # (kv_heads, group * size, 1)

        def attend_tile(index, outputs, log_sums):
            def add(other, maximum, total, output):
                scores = self._scores(index, other)
                new_maximum = tf.maximum(maximum, tf.reduce_max(scores, axis=-1, keepdims=True))
                weights, decay = tf.exp(scores - new_maximum), tf.exp(maximum - new_maximum)
                total = total * decay + tf.reduce_sum(weights, axis=-1, keepdims=True)
                return new_maximum, total, output * decay + tf.matmul(weights, self.values[other])

            state = zero_sum + tf.float32.min, zero_sum, zero_output
            maximum, total, output = _loop(*self._visible(index), add, state)
            return _put(outputs, index, output / total), _put(log_sums, index, maximum + tf.math.log(total))

        state = tf.zeros_like(self.queries), tf.zeros_like(self.queries[..., :1])
        outputs, log_sums = _loop(0, tf.shape(self.queries)[0], attend_tile, state)
        return self.join(outputs, self.heads), log_sums

    def gradients(self, d_output, output, log_sums) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gradients of queries, keys and values, from the results of `attend`."""
        d_outputs = self.split(d_output)
        row_sums = tf.reduce_sum(self.split(output) * d_outputs, axis=-1, keepdims=True)

        def add_tile(index, d_queries, d_keys, d_values):
            queries, d_output = self.queries[index], d_outputs[index]

            def add(other, d_tile, d_keys, d_values):
                # The scores of a row without visible keys are so large that their difference is inexact.
                weights = tf.exp(tf.minimum(self._scores(index, other) - log_sums[index], 0))
                # dS = P * (dP - rowsum(dO * O)), as in `_softmax_gradient`
                d_weights = tf.matmul(d_output, self.values[other], transpose_b=True)
                d_scores = weights * (d_weights - row_sums[index])
                return (
                    d_tile + tf.matmul(d_scores, self.keys[other]),
                    _put(d_keys, other, d_keys[other] + tf.matmul(queries, d_scores, transpose_a=True)),
                    _put(d_values, other, d_values[other] + tf.matmul(d_output, weights, transpose_a=True)),
                )

            state = tf.zeros_like(queries), d_keys, d_values
            d_tile, d_keys, d_values = _loop(*self._visible(index), add, state)
            return _put(d_queries, index, d_tile), d_keys, d_values

        # The gradients of keys and values are summed in transposed form: their products then read only the
        # narrow factor, queries or d_output, in transposed order, which is twice as fast.
        zeros = [tf.zeros_like(tf.linalg.matrix_transpose(x)) for x in (self.keys, self.values)]
        state = tf.zeros_like(self.queries), *zeros
        d_queries, *transposed = _loop(0, tf.shape(self.queries)[0], add_tile, state)
        d_keys, d_values = map(tf.linalg.matrix_transpose, transposed)
        d_queries = self.join(d_queries, self.heads)
        return d_queries, *(self.join(x, self.kv_heads) for x in (d_keys * self.scale, d_values))

    def _visible(self, index) -> tuple[tf.Tensor, tf.Tensor]:
        """Number of the first tile of keys that a tile of queries reads, and of the one after the last."""
        first = index - index % self.num_tiles
        return first, first + self.num_tiles if self.mask is None else index + 1

    def _scores(self, index, other) -> tf.Tensor:
        """(kv_heads, group * size, size) scores and their bias."""
        scores = tf.matmul(self.queries[index], self.keys[other], transpose_b=True)
        queries, keys = (n % self.num_tiles * self.size + tf.range(self.size) for n in (index, other))
        if self.mask is None:
            return tf.where(keys < self.length, scores, MASKED)
        mask, row = self.mask, index // self.num_tiles
        for name in ("padding", "segment_ids"):
            if (part := getattr(mask, name)) is not None:
                mask = mask._replace(**{name: part[row][tf.newaxis]})
        bias = tf.cast(mask.bias(queries, keys), tf.float32)[0]  # (heads or 1, size, size)
        by_head = tf.reshape(scores, (self.heads, self.size, self.size))
        return tf.reshape(by_head + bias, tf.shape(scores))


def _loop(start, end, body, state):
    """Calls `state = body(number, *state)` for each number from `start` up to `end`."""
    _, *state = tf.while_loop(
        lambda number, *_: number < end,
        lambda number, *state: (number + 1, *body(number, *state)),
        (start, *state),
        parallel_iterations=1,
    )
    return tuple(state)


def _put(x, index, value):
    return tf.tensor_scatter_nd_update(x, [[index]], value[tf.newaxis])
