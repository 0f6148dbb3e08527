"""Cross-entropy over a large vocabulary in chunks of positions: the logits of a batch never exist at once.

Shape words: batch, length, dim, vocab_size; rows are the positions of a chunk.
"""

import keras
import tensorflow as tf

from training.evaluation import summed_cross_entropy

# Number of logits of a batch from which its loss is computed in chunks, and of a chunk: 67 and 34 MB.
CHUNKED_LOGITS, LOGITS_IN_CHUNK = 2**24, 2**23


def is_chunked(model: keras.Model, inputs: tf.Tensor) -> bool:
    """Whether the loss of a batch is computed in chunks: `model` is a language model with many logits."""
    if not hasattr(model, "output_embeddings") or None in inputs.shape:
        return False
    return inputs.shape.num_elements() * model.config.vocab_size >= CHUNKED_LOGITS


def chunked_cross_entropy(
    features: tf.Tensor, embeddings: tf.Tensor, targets: tf.Tensor, *, label_smoothing: float = 0.0
) -> tf.Tensor:
    """`summed_cross_entropy` of the logits features embeddings^T, () float32.

    The gradients are computed with the loss of each chunk, and scaled in the backward pass: the logits are
    neither kept nor computed twice.

    Args:
        features: (batch, length, dim).
        embeddings: (vocab_size, dim), of the same dtype.
        targets: (batch, length) int32; negative targets are masked.
        label_smoothing: see `summed_cross_entropy`.
    """
    dim, count = features.shape[-1], targets.shape[0] * targets.shape[1]
    num_chunks = -(-count * embeddings.shape[0] // LOGITS_IN_CHUNK)
    rows = -(-count // num_chunks)
    padding = num_chunks * rows - count

    @tf.custom_gradient
    def loss_of(features, embeddings):
        flat = tf.pad(tf.reshape(features, (-1, dim)), ((0, padding), (0, 0)))
        chunks = tf.reshape(flat, (num_chunks, rows, dim))
        masked = tf.pad(tf.reshape(targets, [-1]), ((0, padding),), constant_values=-1)
        target_chunks = tf.reshape(masked, (num_chunks, rows))

        def add_chunk(index, loss, d_features, d_embeddings):
            chunk = chunks[index]  # (rows, dim)
            logits = tf.cast(tf.matmul(chunk, embeddings, transpose_b=True), tf.float32)  # (rows, vocab_size)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                chunk_loss = summed_cross_entropy(
                    logits, target_chunks[index], label_smoothing=label_smoothing
                )
            d_logits = tf.cast(tape.gradient(chunk_loss, logits), embeddings.dtype)
            part = tf.matmul(d_logits, chunk, transpose_a=True)  # (vocab_size, dim)
            d_features = d_features.write(index, tf.matmul(d_logits, embeddings))
            return index + 1, loss + chunk_loss, d_features, d_embeddings + tf.cast(part, tf.float32)

        d_features = tf.TensorArray(features.dtype, num_chunks, element_shape=(rows, dim))
        state = (0, 0.0, d_features, tf.zeros(embeddings.shape, tf.float32))
        _, loss, d_features, d_embeddings = tf.while_loop(
            lambda index, *_: index < num_chunks, add_chunk, state, parallel_iterations=1
        )
        d_features = tf.reshape(tf.reshape(d_features.stack(), (-1, dim))[:count], features.shape)

        def gradients(d_loss):
            scaled = tf.cast(d_features, tf.float32) * d_loss, d_embeddings * d_loss
            return [tf.cast(part, features.dtype) for part in scaled]

        return loss, gradients

    return loss_of(features, embeddings)
