"""Evaluation: means over all targets of the held-out data."""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from training.losses import count_targets
from training.replicas import ONE_DEVICE, Replicas, all_reduced

Measure = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def make_evaluator(
    model: keras.Model, measure: Measure, *, compile_mode: str, replicas: Replicas = ONE_DEVICE
) -> Callable[[Iterable], dict[str, float]]:
    """Function that computes metrics by name from batches `(inputs, targets)` of one shape.

    A metric is a mean over targets, not over batches, so that a partly filled batch has less weight; masked
    (negative) targets do not count.

    Args:
        model: called as `model(inputs)`.
        measure: function of logits and targets that returns sums over the targets by name, such as
            `training.losses.summed_loss`.
        compile_mode: `graph` or `xla`.
        replicas: replicas of the run; a batch is the rows that this worker reads.
    """

    @tf.function(jit_compile=compile_mode == "xla")
    def evaluate_batch(inputs, targets):
        return measure(model(inputs), targets), count_targets(targets)

    def evaluate_rows(inputs, targets):
        sums, count = evaluate_batch(inputs, targets)
        count, *values = all_reduced([count, *sums.values()])
        return dict(zip(sums, values, strict=True)), count

    sums_of = evaluate_batch if replicas.strategy is None else replicas.compile(evaluate_rows)

    def evaluate(batches: Iterable) -> dict[str, float]:
        totals, count = {}, 0.0
        for inputs, targets in batches:
            sums, batch_count = sums_of(tf.convert_to_tensor(inputs), tf.convert_to_tensor(targets))
            totals = {name: totals.get(name, 0.0) + float(value) for name, value in sums.items()}
            count += float(batch_count)
        if not count:
            raise ValueError("cannot evaluate: the batches contain no targets.")
        return {name: total / count for name, total in totals.items()}

    return evaluate
