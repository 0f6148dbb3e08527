"""Token-weighted evaluation."""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from training.losses import summed_cross_entropy


def make_evaluator(model: keras.Model, *, compile_mode: str) -> Callable[[Iterable], float]:
    """A function from batches to the mean loss in nats per target.

    A batch is `(inputs, targets)`, of one shape throughout; negative targets do not count. The mean is
    over targets, not over batches, so that a batch that is not full does not count for more.
    """

    @tf.function(jit_compile=compile_mode == "xla")
    def evaluate_batch(inputs, targets):
        return summed_cross_entropy(model(inputs), targets)

    def evaluate(batches: Iterable) -> float:
        total = count = 0.0
        for inputs, targets in batches:
            batch_loss, batch_count = evaluate_batch(
                tf.convert_to_tensor(inputs), tf.convert_to_tensor(targets)
            )
            total += float(batch_loss)
            count += float(batch_count)
        if not count:
            raise ValueError("there is nothing to evaluate: no batch holds a target.")
        return total / count

    return evaluate
