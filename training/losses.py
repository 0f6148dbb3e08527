"""The loss of all tasks, and what is measured beside it."""

import tensorflow as tf


def summed_cross_entropy(
    logits: tf.Tensor, targets: tf.Tensor, *, label_smoothing: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy in nats, summed over the targets, and how many they are.

    Args:
        logits: (..., classes) float32.
        targets: (...) int32; a negative one does not count.
        label_smoothing: share of each target that is spread evenly over all classes (Szegedy et al. 2015,
            arXiv 1512.00567).

    Returns:
        Two () float32 tensors.
    """
    counts = tf.cast(targets >= 0, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    if label_smoothing:
        even = tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_mean(logits, axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * even
    return tf.reduce_sum(losses * counts), tf.reduce_sum(counts)


def summed_loss(logits: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    """What is measured of a language model, summed over the targets; arguments as above."""
    return {"validation_loss": summed_cross_entropy(logits, targets)[0]}


def summed_loss_and_accuracy(logits: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    """What is measured of a classifier, summed over the targets; arguments as above.

    The right class is always among the first five of five or fewer: that is not measured.
    """
    top = min(5, logits.shape[-1])
    found = tf.math.top_k(logits, k=top).indices == targets[..., tf.newaxis]
    hits = tf.reduce_sum(tf.cast(found, tf.float32), axis=tuple(range(len(targets.shape))))  # of each rank
    measured = summed_loss(logits, targets) | {"accuracy": hits[0]}
    return measured | ({"top_5_accuracy": tf.reduce_sum(hits)} if logits.shape[-1] > 5 else {})


def summed_loss_and_answers(logits: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    """What is measured of answers, summed over the targets; arguments as above.

    The targets of a row, (batch, length), are one answer: each of them counts as right where all are.
    """
    asked = targets >= 0
    found = tf.argmax(logits, axis=-1, output_type=targets.dtype) == targets
    right = asked & tf.reduce_all(found | ~asked, axis=-1, keepdims=True)
    return summed_loss(logits, targets) | {"accuracy": tf.reduce_sum(tf.cast(right, tf.float32))}
