"""Attention in chunks of queries: exact, in memory that grows with the length and not with its square."""

import tensorflow as tf

from models.positions import CausalMask

# Queries of a chunk, at most: fewer save little memory, and small matmuls are slow.
CHUNK = 512
# Parts of the queries under a causal mask, each with the keys up to its end: 9/16 of all scores are made.
SPANS = 8
# Shorter attention is full under `auto`, longer is chunked.
AUTO_LENGTH = 2_048


def is_chunked(kernel: str, length: int | None) -> bool:
    """Whether attention among `length` tokens is to be chunked; None for a length that is not known yet.

    Args:
        kernel: `full`, `chunked` or `auto`, which chunks lengths from `AUTO_LENGTH` on, and unknown ones:
            a length below `CHUNK` is one chunk.
    """
    if kernel == "auto":
        return length is None or length >= AUTO_LENGTH
    if kernel not in ("full", "chunked"):
        raise ValueError(f"attention_kernel must be one of full, chunked, auto; got {kernel!r}.")
    return kernel == "chunked"


def attend_in_chunks(
    queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: CausalMask | None = None
) -> tf.Tensor:
    """`attend`, of queries and keys of one length: a chunk of queries at a time sees its keys.

    The backward pass makes the weights again (Rabe and Staats 2021, arXiv 2112.05682; the sum over the keys
    in their gradient is that of FlashAttention, arXiv 2205.14135).

    Args:
        queries: (batch, heads, length, head_dim).
        keys, values: (batch, kv_heads, length, head_dim); kv_heads divides heads.
        mask: of which a chunk makes its part of the bias; no gradient flows to it.

    Returns:
        (batch, heads, length, head_dim).
    """
    # The keys carry the scale, as in `attend`.
    keys *= tf.cast(keys.shape[-1] ** -0.5, keys.dtype)
    return _attended(queries, keys, values, mask, chunk=CHUNK, num_spans=1 if mask is None else SPANS)


# A function of its own: the layers of a model share its graph, which takes seconds to make.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _attended(queries, keys, values, mask, *, chunk, num_spans):
    @tf.custom_gradient
    def attended(queries, keys, values):
        layout = Chunks(queries, keys, mask, chunk=chunk, num_spans=num_spans)
        chunks = layout.split(queries)
        parts = []
        for span in layout.spans:
            with tf.control_dependencies(parts):  # side by side they would need the memory of all
                parts.append(_mixed(layout, span, chunks, keys, values))
        mixed = tf.concat(parts, axis=0)

        def gradients(upstream):
            grads = _gradients(layout, chunks, keys, values, mixed, layout.split(upstream))
            return layout.merge(grads[0]), *grads[1:]

        return layout.merge(mixed), gradients

    return attended(queries, keys, values)


class Chunks:
    """How queries are cut: into spans, of as many chunks each, of as many rows each; the last are padded.

    A part of the queries is (chunks, batch, kv_heads, group * rows, head_dim): one matmul for a group.
    """

    def __init__(
        self, queries: tf.Tensor, keys: tf.Tensor, mask: CausalMask | None, *, chunk: int, num_spans: int
    ):
        self.batch, self.heads, self.length, _ = tf.unstack(tf.shape(queries))
        self.kv_heads, self.head_dim = keys.shape[1], keys.shape[3]
        self.mask = mask
        self.num_spans = num_spans
        self.chunks_in_span = -(-self.length // (num_spans * chunk))
        self.rows = -(-self.length // (num_spans * self.chunks_in_span))

    @property
    def spans(self) -> range:
        return range(self.num_spans)

    def split(self, x: tf.Tensor) -> tf.Tensor:
        """(batch, heads, length, head_dim) as chunks."""
        count = self.num_spans * self.chunks_in_span
        x = tf.pad(x, ((0, 0), (0, 0), (0, count * self.rows - self.length), (0, 0)))
        x = tf.reshape(x, (self.batch, self.kv_heads, -1, count, self.rows, self.head_dim))
        x = tf.transpose(x, (3, 0, 1, 2, 4, 5))
        return tf.reshape(x, (count, self.batch, self.kv_heads, -1, self.head_dim))

    def merge(self, x: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`."""
        count = self.num_spans * self.chunks_in_span
        x = tf.reshape(x, (count, self.batch, self.kv_heads, -1, self.rows, self.head_dim))
        x = tf.transpose(x, (1, 2, 3, 0, 4, 5))
        x = tf.reshape(x, (self.batch, self.heads, -1, self.head_dim))
        return x[:, :, : self.length]

    def numbers(self, span: int) -> tf.Tensor:
        """The numbers of the chunks of a span."""
        return span * self.chunks_in_span + tf.range(self.chunks_in_span)

    def end(self, span: int) -> tf.Tensor:
        """The number of keys that a span sees."""
        return tf.minimum((span + 1) * self.chunks_in_span * self.rows, self.length)

    def weights(self, number: tf.Tensor, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """(batch, kv_heads, group * rows, keys) shares of the keys in one chunk."""
        scores = tf.matmul(queries, keys, transpose_b=True)
        shape = tf.shape(scores)
        if self.mask is not None:
            # Rows of the padding are like the last: what they see has no gradient.
            columns = tf.minimum(number * self.rows + tf.range(self.rows), self.length - 1)
            bias = self.mask.bias(columns, tf.range(shape[-1]))
            scores = tf.reshape(scores, (self.batch, self.heads, self.rows, shape[-1]))
            scores = tf.cast(scores, bias.dtype) + bias
        return tf.reshape(tf.cast(tf.nn.softmax(scores), keys.dtype), shape)


def _mixed(layout, span, chunks, keys, values):
    """The chunks of a span, attended."""
    keys, values = (x[:, :, : layout.end(span)] for x in (keys, values))
    return tf.map_fn(
        lambda number: tf.matmul(layout.weights(number, chunks[number], keys), values),
        layout.numbers(span),
        fn_output_signature=tf.TensorSpec(chunks.shape[1:], chunks.dtype),
        parallel_iterations=1,
    )


def _gradients(layout, chunks, keys, values, mixed, upstream):
    """Of the chunks of queries, and of the scaled keys and the values, which are summed in float32."""
    of_keys, of_values = (tf.zeros(tf.shape(x), tf.float32) for x in (keys, values))
    of_chunks = []
    for span in layout.spans:
        end = layout.end(span)
        seen = keys[:, :, :end], values[:, :, :end]
        sums = of_keys[:, :, :end], of_values[:, :, :end]
        of_span, sums = _span_gradients(layout, span, chunks, seen, mixed, upstream, sums)
        of_chunks.append(of_span)
        of_keys, of_values = (
            tf.concat([new, old[:, :, end:]], axis=2)
            for new, old in zip(sums, (of_keys, of_values), strict=True)
        )
    return tf.concat(of_chunks, axis=0), tf.cast(of_keys, keys.dtype), tf.cast(of_values, values.dtype)


def _span_gradients(layout, span, chunks, seen, mixed, upstream, sums):
    keys, values = seen
    numbers = layout.numbers(span)
    # From the gradient of a row's weights comes off the sum of `weights * gradient`, which is that of
    # `above * mixed`: as features of their own, the matmul sums and subtracts them.
    wide_values = tf.concat([values, tf.ones_like(values)], axis=-1)

    def of_chunk(index, of_chunks, of_keys, of_values):
        number = numbers[index]
        queries, above = chunks[number], upstream[number]
        weights = layout.weights(number, queries, keys)
        wide = tf.concat([above, -above * mixed[number]], axis=-1)
        of_scores = weights * tf.matmul(wide, wide_values, transpose_b=True)
        return (
            index + 1,
            of_chunks.write(index, tf.matmul(of_scores, keys)),
            _added(of_keys, tf.matmul(of_scores, queries, transpose_a=True)),
            _added(of_values, tf.matmul(weights, above, transpose_a=True)),
        )

    of_chunks = tf.TensorArray(chunks.dtype, layout.chunks_in_span, element_shape=chunks.shape[1:])
    _, of_chunks, *sums = tf.while_loop(
        lambda index, *_: index < layout.chunks_in_span,
        of_chunk,
        (0, of_chunks, *sums),
        parallel_iterations=1,
    )
    return of_chunks.stack(), sums


def _added(total, part):
    return tf.ensure_shape(total + tf.cast(part, total.dtype), total.shape)
