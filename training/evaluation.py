"""Evaluation weighted by targets."""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from training.distribution import ONE_DEVICE, Distribution, all_reduced

Measure = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def make_evaluator(
    model: keras.Model, measure: Measure, *, compile_mode: str, distribution: Distribution = ONE_DEVICE
) -> Callable[[Iterable], dict[str, float]]:
    """A function from batches to the mean over their targets of each thing measured.

    A batch is `(inputs, targets)`, of one shape throughout; negative targets do not count. The mean is
    over targets, not over batches, so that a batch that is not full does not count for more.

    Args:
        model: called as `model(inputs)`.
        measure: sums over targets by name, such as `training.losses.summed_loss`, of logits and targets.
        compile_mode: `graph` or `xla`.
        distribution: over replicas; the batches are then the rows of each that this worker reads.
    """

    @tf.function(jit_compile=compile_mode == "xla")
    def evaluate_batch(inputs, targets):
        count = tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
        return measure(model(inputs), targets), count

    def evaluate_rows(inputs, targets):
        sums, count = evaluate_batch(inputs, targets)
        count, *values = all_reduced([count, *sums.values()])
        return dict(zip(sums, values, strict=True)), count

    sums_of = evaluate_batch if distribution.strategy is None else distribution.on_replicas(evaluate_rows)

    def evaluate(batches: Iterable) -> dict[str, float]:
        totals, count = {}, 0.0
        for inputs, targets in batches:
            sums, batch_count = sums_of(tf.convert_to_tensor(inputs), tf.convert_to_tensor(targets))
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
            count += float(batch_count)
        if not count:
            raise ValueError("there is nothing to evaluate: no batch holds a target.")
        return {name: total / count for name, total in totals.items()}

    return evaluate
