"""One update of the weights."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from training.distribution import ONE_DEVICE, Distribution, all_reduced
from training.losses import summed_cross_entropy


class StepResult(NamedTuple):
    """Of one step, before its update: the mean loss in nats, the global norm of its gradient, the learning
    rate; and whether loss and norm are finite. When they are not, the weights were left as they were."""

    loss: tf.Tensor
    gradient_norm: tf.Tensor
    learning_rate: tf.Tensor
    finite: tf.Tensor


def make_train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    accumulation_steps: int,
    clip_norm: float,
    label_smoothing: float,
    seed: int,
    compile_mode: str,
    distribution: Distribution = ONE_DEVICE,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], StepResult]:
    """The compiled step `(step, inputs, targets) -> StepResult`.

    Every draw is stateless: dropout is keyed by (seed, step, micro-batch, layer). Replicas number their
    micro-batches on, so that two of them drop out as one with twice the `accumulation_steps`.

    Args:
        model: called as `model(inputs, training=True, seed=(2,) int32)`.
        optimizer: built for the model's trainable variables.
        accumulation_steps: number of micro-batches that a replica's part of a batch is worked off in; divides
            its rows.
        clip_norm: the gradient's global norm is at most this when it is applied.
        label_smoothing: of the loss, see `summed_cross_entropy`.
        seed: of the run.
        compile_mode: `graph` or `xla`; of several replicas, for their gradients.
        distribution: over replicas; inputs and targets are then the rows of a batch that this worker reads.
            The gradients of all are added up at once, before they are clipped.
    """
    variables = model.trainable_variables

    def micro_batch_gradients(inputs, targets, step_seed, number, count):
        seed_pair = tf.random.experimental.stateless_fold_in(step_seed, number)
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True, seed=seed_pair)
            loss = summed_cross_entropy(logits, targets, label_smoothing=label_smoothing)[0] / count
        # Dense: Keras' Adam squares the slices of a sparse embedding gradient before it adds them up.
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    def batch_gradients(inputs, targets, step, first, count):
        step_seed = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int32), step)
        if accumulation_steps == 1:
            return micro_batch_gradients(inputs, targets, step_seed, first, count)
        # (accumulation_steps, rows, ...): XLA cannot cut a range of rows that depends on the index.
        inputs, targets = (tf.stack(tf.split(part, accumulation_steps)) for part in (inputs, targets))
        loss, total = tf.constant(0.0), [tf.zeros_like(variable) for variable in variables]
        for index in tf.range(accumulation_steps):
            # One at a time: TensorFlow would begin the next one before the memory of this one is free.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            micro_loss, gradients = micro_batch_gradients(
                inputs[index], targets[index], step_seed, first + index, count
            )
            loss += micro_loss
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        return loss, total

    def update(loss, gradients):
        gradients, norm = tf.clip_by_global_norm(gradients, clip_norm)
        learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        if finite:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return StepResult(loss, norm, learning_rate, finite)

    if distribution.strategy is None:

        @tf.function(jit_compile=compile_mode == "xla")
        def train_step(step, inputs, targets):
            count = tf.maximum(number_of(targets), 1.0)
            return update(*batch_gradients(inputs, targets, step, 0, count))

        return train_step

    # XLA compiles no collective operation of TensorFlow's on a processor.
    summed_gradients = tf.function(batch_gradients, jit_compile=compile_mode == "xla")

    def replica_step(inputs, targets, step):
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * accumulation_steps
        loss, gradients = summed_gradients(inputs, targets, step, tf.convert_to_tensor(first), 1.0)
        count, loss, *gradients = all_reduced([number_of(targets), loss, *gradients])
        count = tf.maximum(count, 1.0)
        return update(loss / count, [gradient / count for gradient in gradients])

    on_replicas = distribution.on_replicas(replica_step)
    return lambda step, inputs, targets: on_replicas(inputs, targets, step=step)


def number_of(targets: tf.Tensor) -> tf.Tensor:
    """How many of them count."""
    return tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
