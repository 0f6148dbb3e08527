"""Losses and metrics as sums over targets, so that batches and replicas add up, and their means.

Shape words: batch, length, classes; `...` is (batch, length) for text and (batch,) for images.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from training.replicas import ONE_DEVICE, Replicas, all_reduced

# Number of logits of a batch from which evaluation takes rows one by one, 67 MB.
MANY_LOGITS = 2**24
# Number of logits of a batch from which its loss is computed in chunks, and of a chunk. XLA fuses a chunk,
# which is faster in float32 if it stays in the cache of a processor; other chunks only save memory.
FUSED_CHUNKS, OTHER_CHUNKS = (2**22, 2**20), (2**24, 2**23)

Measure = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def summed_cross_entropy(logits: tf.Tensor, targets: tf.Tensor, *, label_smoothing: float = 0.0) -> tf.Tensor:
    """Sum of the cross-entropies in nats, () float32.

    Args:
        logits: (..., classes) float32.
        targets: (...) int32; negative targets are masked.
        label_smoothing: share of each target that is spread evenly over all classes (Szegedy et al. 2015,
            arXiv 1512.00567).
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)  # (...)
    if label_smoothing:
        # Cross-entropy with a uniform target: logsumexp(logits) - mean(logits)
        uniform = tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_mean(logits, axis=-1)  # (...)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    return tf.reduce_sum(losses * tf.cast(targets >= 0, tf.float32))  # ()


def num_logits(model: keras.Model, inputs: tf.Tensor) -> int:
    """Number of logits of a batch of a language model; 0 for other models, and unknown shapes."""
    if not hasattr(model, "output_embeddings") or None in inputs.shape:
        return 0
    return inputs.shape.num_elements() * model.config.vocab_size


def is_fused(dtype: tf.DType) -> bool:
    """Whether XLA compiles the chunks: in float32 on a CPU."""
    return dtype == tf.float32 and not tf.config.list_logical_devices("GPU")


def is_loss_chunked(model: keras.Model, inputs: tf.Tensor) -> bool:
    """Whether the loss of a batch is computed in chunks: `model` is a language model with many logits."""
    least, _ = FUSED_CHUNKS if is_fused(tf.as_dtype(model.compute_dtype)) else OTHER_CHUNKS
    return num_logits(model, inputs) >= least


def chunked_cross_entropy(
    features: tf.Tensor, embeddings: tf.Tensor, targets: tf.Tensor, *, label_smoothing: float = 0.0
) -> tf.Tensor:
    """`summed_cross_entropy` of the logits features embeddings^T, which are neither kept nor computed twice.

    The gradients are computed with the loss of each chunk, and scaled in the backward pass. `features` are
    (batch, length, dim), `embeddings` (vocab_size, dim), `targets` (batch, length).
    """
    compute, (_, size) = _loss_and_gradients, OTHER_CHUNKS
    if is_fused(features.dtype):
        compute, (_, size) = _fused_loss_and_gradients, FUSED_CHUNKS

    @tf.custom_gradient
    def loss_of(features, embeddings):
        loss, *parts = compute(features, embeddings, targets, label_smoothing, size)
        return loss, lambda d_loss: [tf.cast(part * d_loss, features.dtype) for part in parts]

    return loss_of(features, embeddings)


def _loss_and_gradients(features, embeddings, targets, label_smoothing, logits_in_chunk):
    """Loss, and its gradients for features and embeddings in float32."""
    dim, count = features.shape[-1], targets.shape[0] * targets.shape[1]
    num_chunks = -(-count * embeddings.shape[0] // logits_in_chunk)
    rows = -(-count // num_chunks)
    padding = num_chunks * rows - count
    flat = tf.pad(tf.reshape(features, (-1, dim)), ((0, padding), (0, 0)))
    chunks = tf.reshape(flat, (num_chunks, rows, dim))
    masked = tf.pad(tf.reshape(targets, [-1]), ((0, padding),), constant_values=-1)
    target_chunks = tf.reshape(masked, (num_chunks, rows))

    def add_chunk(index, loss, d_features, d_embeddings):
        chunk = chunks[index]  # (rows, dim)
        logits = tf.cast(tf.matmul(chunk, embeddings, transpose_b=True), tf.float32)  # (rows, vocab_size)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            chunk_loss = summed_cross_entropy(logits, target_chunks[index], label_smoothing=label_smoothing)
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
    return loss, tf.cast(d_features, tf.float32), d_embeddings


_fused_loss_and_gradients = tf.function(_loss_and_gradients, autograph=False, jit_compile=True)


def count_targets(targets: tf.Tensor) -> tf.Tensor:
    """Number of targets that are not masked, () float32."""
    return tf.reduce_sum(tf.cast(targets >= 0, tf.float32))


def summed_loss(logits: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    """Metrics of a language model, summed over the targets; arguments as above."""
    return {"validation_loss": summed_cross_entropy(logits, targets)}


def summed_loss_and_accuracy(logits: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    """Metrics of a classifier, summed over the targets; top-5 accuracy only of more than five classes."""
    top = min(5, logits.shape[-1])
    hits = tf.math.top_k(logits, k=top).indices == targets[..., tf.newaxis]  # (..., top)
    hits = tf.reduce_sum(tf.cast(hits, tf.float32), axis=tuple(range(len(targets.shape))))  # (top,)
    metrics = summed_loss(logits, targets) | {"accuracy": hits[0]}
    if logits.shape[-1] > 5:
        metrics["top_5_accuracy"] = tf.reduce_sum(hits)
    return metrics


def summed_loss_and_answers(logits: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    """Metrics of answers; the targets of a row are one answer, and count as correct if all of them are."""
    is_target = targets >= 0  # (batch, length)
    is_equal = tf.argmax(logits, axis=-1, output_type=targets.dtype) == targets  # (batch, length)
    is_correct = tf.reduce_all(is_equal | ~is_target, axis=-1, keepdims=True)  # (batch, 1)
    correct = tf.reduce_sum(tf.cast(is_target & is_correct, tf.float32))
    return summed_loss(logits, targets) | {"accuracy": correct}


def make_evaluator(
    model: keras.Model, measure: Measure, *, compile_mode: str, replicas: Replicas = ONE_DEVICE
) -> Callable[[Iterable], dict[str, float]]:
    """Function that computes means over the targets, by name, from batches `(inputs, targets)` of one shape.

    `measure`, such as `summed_loss`, returns sums over the targets. Masked (negative) targets do not count.
    With replicas, a batch is the rows that this worker reads.
    """

    @tf.function(autograph=False, jit_compile=compile_mode == "xla")
    def evaluate_batch(inputs, targets):
        return {"targets": count_targets(targets), **measure(model(inputs), targets)}

    def evaluate_rows(inputs, targets):
        sums = evaluate_batch(inputs, targets)
        return dict(zip(sums, all_reduced(list(sums.values())), strict=True))

    sums_of = evaluate_batch if replicas.strategy is None else replicas.compile(evaluate_rows)

    def evaluate(batches: Iterable) -> dict[str, float]:
        totals = defaultdict(float)
        for batch in batches:
            inputs, targets = map(tf.convert_to_tensor, batch)
            parts = [(inputs, targets)]
            if replicas.strategy is None and num_logits(model, inputs) >= MANY_LOGITS:  # row by row
                parts = zip(*(tf.split(rows, len(rows)) for rows in (inputs, targets)), strict=True)
            for inputs, targets in parts:
                for name, value in sums_of(inputs, targets).items():
                    totals[name] += float(value)
        count = totals.pop("targets")
        if not count:
            raise ValueError("cannot evaluate: the batches contain no targets.")
        return {name: total / count for name, total in totals.items()}

    return evaluate
