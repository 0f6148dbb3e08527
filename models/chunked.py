"""Attention in chunks of queries: exact, in memory that grows with the length and not with its square."""

import tensorflow as tf

from models.positions import CausalMask
from rope.private_tensorflow import in_xla

# Queries of a chunk, at most: fewer save little memory, and small matmuls are slow.
CHUNK = 512
# Parts of the queries under a mask and XLA, each with the keys up to its end: 9/16 of all scores are made.
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
    num_spans = SPANS if mask is not None and in_xla() else 1
    return _attended(queries, keys, values, mask, chunk=CHUNK, num_spans=num_spans)


# A function of its own: the layers of a model share its graph, which takes seconds to make.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _attended(queries, keys, values, mask, *, chunk, num_spans):
    @tf.custom_gradient
    def attended(queries, keys, values):
        layout = Chunks(queries, keys, mask, chunk=chunk, num_spans=num_spans)
        chunks = layout.split(queries)
        keys, values = layout.padded(keys), layout.padded(values)
        parts = []
        for span in range(num_spans):
            with tf.control_dependencies(parts):  # side by side they would need the memory of all
                parts.append(_mixed(layout, span, chunks, keys, values))
        mixed = tf.concat(parts, axis=0)

        def gradients(upstream):
            of_chunks, *rest = _gradients(layout, chunks, keys, values, mixed, layout.split(upstream))
            return layout.merge(of_chunks), *(x[:, :, : layout.length] for x in rest)

        return layout.merge(mixed), gradients

    return attended(queries, keys, values)


class Chunks:
    """How queries are cut: into spans, of as many chunks each, of as many rows each; the last are padded.

    A part of the queries is (chunks, batch, kv_heads, group * rows, head_dim): one matmul for a group.
    Under a causal mask the keys are padded alike, and a chunk is given those up to its own end. XLA needs to
    know their number while it compiles: with several spans, those up to the end of its span.
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
        self.padding = num_spans * self.chunks_in_span * self.rows - self.length
        if mask is not None and mask.segment_ids is not None:
            self.mask = mask._replace(segment_ids=tf.pad(mask.segment_ids, ((0, 0), (0, self.padding))))

    def split(self, x: tf.Tensor) -> tf.Tensor:
        """(batch, heads, length, head_dim) as chunks."""
        x = tf.pad(x, ((0, 0), (0, 0), (0, self.padding), (0, 0)))
        x = tf.reshape(x, (self.batch, self.kv_heads, -1, self._count, self.rows, self.head_dim))
        x = tf.transpose(x, (3, 0, 1, 2, 4, 5))
        return tf.reshape(x, (self._count, self.batch, self.kv_heads, -1, self.head_dim))

    def merge(self, x: tf.Tensor) -> tf.Tensor:
        """The inverse of `split`."""
        x = tf.reshape(x, (self._count, self.batch, self.kv_heads, -1, self.rows, self.head_dim))
        x = tf.transpose(x, (1, 2, 3, 0, 4, 5))
        x = tf.reshape(x, (self.batch, self.heads, -1, self.head_dim))
        return x[:, :, : self.length]

    def padded(self, x: tf.Tensor) -> tf.Tensor:
        """Keys or values with columns that the mask hides, so that each chunk has as many of its own."""
        return x if self.mask is None else tf.pad(x, ((0, 0), (0, 0), (0, self.padding), (0, 0)))

    def numbers(self, span: int) -> tf.Tensor:
        """The numbers of the chunks of a span."""
        return span * self.chunks_in_span + tf.range(self.chunks_in_span)

    def seen(self, number: tf.Tensor, span: int, x: tf.Tensor) -> tf.Tensor:
        """The keys, or values, that a chunk is given."""
        if self.mask is None:
            return x
        end = number + 1 if self.num_spans == 1 else (span + 1) * self.chunks_in_span
        return x[:, :, : end * self.rows]

    def weights(self, number: tf.Tensor, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """(batch, kv_heads, group * rows, keys) shares of the keys in one chunk."""
        scores = tf.matmul(queries, keys, transpose_b=True)
        shape = tf.shape(scores)
        if self.mask is not None:
            scores = self._masked(number, tf.reshape(scores, (self.batch, self.heads, self.rows, shape[-1])))
        return tf.reshape(tf.cast(tf.nn.softmax(scores), keys.dtype), shape)

    @property
    def _count(self):
        return self.num_spans * self.chunks_in_span

    def _masked(self, number, scores):
        """(batch, heads, rows, keys) scores of a chunk with its bias."""
        own = number * self.rows + tf.range(self.rows)
        # Rows of the padding are like the last: what they see has no gradient.
        rows = tf.minimum(own, self.length - 1)
        if self.num_spans > 1 or not self.mask.hides_later_alone:
            bias = self.mask.bias(rows, tf.range(tf.shape(scores)[-1]))
            return tf.cast(scores, bias.dtype) + bias
        # Hidden are some of the chunk's own columns, the last: only they are written, in place.
        blocks = tf.reshape(scores, (-1, number + 1, self.rows))
        count = tf.shape(blocks)[0]
        bias = tf.tile(self.mask.bias(rows, own)[0, 0], (count // self.rows, 1))
        places = tf.stack([tf.range(count), tf.fill([count], number)], axis=1)
        return tf.reshape(tf.tensor_scatter_nd_add(blocks, places, bias), tf.shape(scores))


def _mixed(layout, span, chunks, keys, values):
    """The chunks of a span, attended."""

    def of_chunk(number):
        seen, of_seen = (layout.seen(number, span, x) for x in (keys, values))
        return tf.matmul(layout.weights(number, chunks[number], seen), of_seen)

    return tf.map_fn(
        of_chunk,
        layout.numbers(span),
        fn_output_signature=tf.TensorSpec(chunks.shape[1:], chunks.dtype),
        parallel_iterations=1,
    )


def _gradients(layout, chunks, keys, values, mixed, upstream):
    """Of the chunks of queries, and of the scaled keys and the values, which are summed in float32."""
    sums = [tf.zeros(tf.shape(x), tf.float32) for x in (keys, values)]
    of_chunks = []
    for span in range(layout.num_spans):
        of_span, *sums = _span_gradients(layout, span, chunks, keys, values, mixed, upstream, sums)
        of_chunks.append(of_span)
    return tf.concat(of_chunks, axis=0), *(tf.cast(total, keys.dtype) for total in sums)


def _span_gradients(layout, span, chunks, keys, values, mixed, upstream, sums):
    numbers = layout.numbers(span)
    # From the gradient of a row's weights comes off the sum of `weights * gradient`, which is that of
    # `above * mixed`: as features of their own, the matmul sums and subtracts them.
    wide_values = tf.concat([values, tf.ones_like(values)], axis=-1)

    def of_chunk(index, of_chunks, of_keys, of_values):
        number = numbers[index]
        queries, above = chunks[number], upstream[number]
        seen = layout.seen(number, span, keys)
        weights = layout.weights(number, queries, seen)
        wide = tf.concat([above, -above * mixed[number]], axis=-1)
        of_scores = weights * tf.matmul(wide, layout.seen(number, span, wide_values), transpose_b=True)
        return (
            index + 1,
            of_chunks.write(index, tf.matmul(of_scores, seen)),
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
    return of_chunks.stack(), *sums


def _added(total, part):
    """The total with a part added to its first columns."""
    end = tf.shape(part)[2]
    new = tf.concat([total[:, :, :end] + tf.cast(part, total.dtype), total[:, :, end:]], axis=2)
    return tf.ensure_shape(new, total.shape)
