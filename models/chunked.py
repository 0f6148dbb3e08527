"""Attention in chunks of queries: exact, with memory proportional to the length instead of its square.

Shape words: batch, heads, kv_heads, length, head_dim; keys_length is the number of keys that a chunk reads,
and group = heads / kv_heads the number of query heads that share a head of keys and values.
"""

import tensorflow as tf

from models.kernels import CausalMask
from rope.private_tensorflow import in_plain_operations, in_xla

# Maximum number of queries in a chunk: smaller chunks save little memory, and small matmuls are slow.
CHUNK = 512
# Number of spans under a mask and XLA, each with the keys up to its end: 9/16 of the scores are computed.
SPANS = 8
# `auto` chunks attention from this length on.
AUTO_LENGTH = 2_048


def is_chunked(kernel: str, length: int | None) -> bool:
    """Whether attention over `length` tokens is computed in chunks; None for a length that is not yet known.

    The kernel is `full`, `chunked`, or `auto`, which chunks lengths from `AUTO_LENGTH` on and unknown ones: a
    length below `CHUNK` is one chunk. Never under `plain_operations`: converters need static shapes.
    """
    if in_plain_operations():
        return False
    return kernel == "chunked" or (kernel == "auto" and (length is None or length >= AUTO_LENGTH))


def attend_in_chunks(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: CausalMask | None = None
) -> tf.Tensor:
    """Self-attention equal to `attend`, in memory proportional to the length.

    Attends one chunk of queries at a time, and recomputes the weights in the backward pass (Rabe and Staats
    2021, arXiv 2112.05682). Shapes are those of `attend`; `mask` computes the bias of each chunk.
    """
    keys *= tf.cast(keys.shape[-1] ** -0.5, keys.dtype)  # scaled keys, as in `attend`
    num_spans = SPANS if mask is not None and in_xla() else 1
    return _chunked_attention(queries, keys, values, mask, chunk=CHUNK, num_spans=num_spans)


# Not inlined: the layers of a model share one graph, which takes seconds to build.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _chunked_attention(queries, keys, values, mask, *, chunk, num_spans):
    @tf.custom_gradient
    def attention(queries, keys, values):
        chunked = _ChunkedAttention(queries, keys, values, mask, chunk=chunk, num_spans=num_spans)
        spans = []
        for span in range(num_spans):
            with tf.control_dependencies(spans):  # one after the other: in parallel all need memory at once
                spans.append(chunked.attend_span(span))
        output = tf.concat(spans, axis=0)  # (chunks, batch, kv_heads, group * rows, head_dim)
        return chunked.merge(output), lambda d_output: chunked.gradients(output, d_output)

    return attention(queries, keys, values)


class _ChunkedAttention:
    """Attention over chunks of queries, grouped in spans; every chunk has `rows` queries, padded at the end.

    Queries are split into (chunks, batch, kv_heads, group * rows, head_dim). Under a causal mask the keys are
    padded too, and a chunk reads the keys up to its own end. XLA needs a static number of keys: there the
    queries are divided into several spans, and a chunk reads the keys up to the end of its span.
    """

    def __init__(self, queries, keys, values, mask, *, chunk: int, num_spans: int):
        self.batch, self.heads, self.length, _ = tf.unstack(tf.shape(queries))
        self.kv_heads, self.head_dim = keys.shape[1], keys.shape[3]
        self.num_spans = num_spans
        self.chunks_per_span = -(-self.length // (num_spans * chunk))
        self.num_chunks = num_spans * self.chunks_per_span
        self.rows = -(-self.length // self.num_chunks)
        padding = self.num_chunks * self.rows - self.length
        self.padding = ((0, 0), (0, 0), (0, padding), (0, 0))
        if mask is not None:
            keys, values = tf.pad(keys, self.padding), tf.pad(values, self.padding)
            if mask.segment_ids is not None:
                mask = mask._replace(segment_ids=tf.pad(mask.segment_ids, self.padding[1:3]))
        self.queries, self.keys, self.values, self.mask = self.split(queries), keys, values, mask

    def split(self, x: tf.Tensor) -> tf.Tensor:
        """(batch, heads, length, head_dim) to (chunks, batch, kv_heads, group * rows, head_dim)."""
        x = tf.pad(x, self.padding)  # (batch, heads, chunks * rows, head_dim)
        x = tf.reshape(x, (self.batch, self.kv_heads, -1, self.num_chunks, self.rows, self.head_dim))
        x = tf.transpose(x, (3, 0, 1, 2, 4, 5))  # (chunks, batch, kv_heads, group, rows, head_dim)
        return tf.reshape(x, (self.num_chunks, self.batch, self.kv_heads, -1, self.head_dim))

    def merge(self, x: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`."""
        x = tf.reshape(x, (self.num_chunks, self.batch, self.kv_heads, -1, self.rows, self.head_dim))
        x = tf.transpose(x, (1, 2, 3, 0, 4, 5))  # (batch, kv_heads, group, chunks, rows, head_dim)
        x = tf.reshape(x, (self.batch, self.heads, -1, self.head_dim))
        return x[:, :, : self.length]  # (batch, heads, length, head_dim)

    def attend_span(self, span: int) -> tf.Tensor:
        """(chunks_per_span, batch, kv_heads, group * rows, head_dim) output of one span."""

        def attend_chunk(chunk):
            keys, values = (self._visible(x, chunk, span) for x in (self.keys, self.values))
            return tf.matmul(self._weights(chunk, keys), values)  # (batch, kv_heads, group * rows, head_dim)

        return tf.map_fn(
            attend_chunk,
            self._chunks(span),
            fn_output_signature=tf.TensorSpec(self.queries.shape[1:], self.queries.dtype),
            parallel_iterations=1,
        )

    def gradients(self, output: tf.Tensor, d_output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Gradients of queries, scaled keys and values; those of keys and values are summed in float32."""
        d_output, d_queries = self.split(d_output), []
        sums = [tf.zeros(tf.shape(x), tf.float32) for x in (self.keys, self.values)]
        for span in range(self.num_spans):
            d_span, *sums = self._span_gradients(span, output, d_output, sums)
            d_queries.append(d_span)
        d_keys, d_values = (tf.cast(total, self.keys.dtype)[:, :, : self.length] for total in sums)
        return self.merge(tf.concat(d_queries, axis=0)), d_keys, d_values

    def _span_gradients(self, span, output, d_output, sums):
        # dS = P * (dP - rowsum(dO * O)) as in `_softmax_gradient`. One matmul computes the difference:
        # dP - rowsum(dO * O) = [dO, -dO * O] [V, 1]^T.
        wide_values = tf.concat([self.values, tf.ones_like(self.values)], axis=-1)  # (..., 2 * head_dim)
        chunks = self._chunks(span)

        def add_chunk(index, d_queries, d_keys, d_values):
            chunk = chunks[index]
            keys, d_chunk = self._visible(self.keys, chunk, span), d_output[chunk]
            weights = self._weights(chunk, keys)
            wide = tf.concat([d_chunk, -d_chunk * output[chunk]], axis=-1)  # (..., 2 * head_dim)
            d_scores = weights * tf.matmul(wide, self._visible(wide_values, chunk, span), transpose_b=True)
            return (
                index + 1,
                d_queries.write(index, tf.matmul(d_scores, keys)),
                _add_to_start(d_keys, tf.matmul(d_scores, self.queries[chunk], transpose_a=True)),
                _add_to_start(d_values, tf.matmul(weights, d_chunk, transpose_a=True)),
            )

        shape = self.queries.shape[1:]
        d_queries = tf.TensorArray(self.queries.dtype, self.chunks_per_span, element_shape=shape)
        _, d_queries, *sums = tf.while_loop(
            lambda index, *_: index < self.chunks_per_span,
            add_chunk,
            (0, d_queries, *sums),
            parallel_iterations=1,
        )
        return d_queries.stack(), *sums

    def _chunks(self, span: int) -> tf.Tensor:
        """(chunks_per_span,) numbers of the chunks of a span."""
        return span * self.chunks_per_span + tf.range(self.chunks_per_span)

    def _visible(self, x: tf.Tensor, chunk: tf.Tensor, span: int) -> tf.Tensor:
        """(batch, kv_heads, keys_length, features) keys or values that a chunk reads."""
        if self.mask is None:
            return x
        end = chunk + 1 if self.num_spans == 1 else (span + 1) * self.chunks_per_span
        return x[:, :, : end * self.rows]

    def _weights(self, chunk: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """(batch, kv_heads, group * rows, keys_length) attention weights of a chunk."""
        scores = tf.matmul(self.queries[chunk], keys, transpose_b=True)
        shape = tf.shape(scores)
        if self.mask is not None:
            scores = tf.reshape(scores, (self.batch, self.heads, self.rows, shape[-1]))
            scores = self._masked(chunk, scores)  # (batch, heads, rows, keys_length)
        return tf.reshape(tf.cast(tf.nn.softmax(scores), keys.dtype), shape)

    def _masked(self, chunk, scores):
        """The (batch, heads, rows, keys_length) scores of a chunk plus its bias."""
        columns = chunk * self.rows + tf.range(self.rows)  # (rows,) of the chunk's queries
        # Padding rows take the mask of the last row: their output is dropped and has no gradient.
        rows = tf.minimum(columns, self.length - 1)
        if self.num_spans > 1 or not self.mask.is_causal_only:
            bias = self.mask.bias(rows, tf.range(tf.shape(scores)[-1]))
            return tf.cast(scores, bias.dtype) + bias
        # A causal mask hides only some of the last `rows` columns: update those, in place.
        blocks = tf.reshape(scores, (-1, chunk + 1, self.rows))  # (batch * heads * rows, chunk + 1, rows)
        count = tf.shape(blocks)[0]
        bias = tf.tile(self.mask.bias(rows, columns)[0, 0], (count // self.rows, 1))  # (count, rows)
        indices = tf.stack([tf.range(count), tf.fill([count], chunk)], axis=1)  # (count, 2)
        return tf.reshape(tf.tensor_scatter_nd_add(blocks, indices, bias), tf.shape(scores))


def _add_to_start(total, part):
    """(batch, kv_heads, length, head_dim) total with `part` added to its first columns."""
    end = tf.shape(part)[2]
    total_start = total[:, :, :end] + tf.cast(part, total.dtype)
    return tf.ensure_shape(tf.concat([total_start, total[:, :, end:]], axis=2), total.shape)
