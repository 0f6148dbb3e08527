"""The loss of both tasks."""

import tensorflow as tf


def summed_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy in nats, summed over the targets, and how many they are.

    Args:
        logits: (..., classes) float32.
        targets: (...) int32; a negative one does not count.

    Returns:
        Two () float32 tensors.
    """
    counts = tf.cast(targets >= 0, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return tf.reduce_sum(losses * counts), tf.reduce_sum(counts)
