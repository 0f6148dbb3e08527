"""One update of the weights.

Shape words: batch, accumulation (micro-batches), rows (of a micro-batch).
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from training.config import TrainingConfig
from training.evaluation import chunked_cross_entropy, count_targets, is_loss_chunked, summed_cross_entropy
from training.replicas import ONE_DEVICE, Replicas, all_reduced


class StepResult(NamedTuple):
    """Metrics of one step before its update, all of shape ()."""

    loss: tf.Tensor  # mean over the targets, in nats
    gradient_norm: tf.Tensor  # global norm before clipping
    learning_rate: tf.Tensor  # of this update
    finite: tf.Tensor  # whether loss and norm are finite; if not, the weights were left unchanged


def make_train_step(
    model: keras.Model,
    optimizer: keras.Optimizer,
    config: TrainingConfig,
    *,
    clip_norm: float,
    replicas: Replicas = ONE_DEVICE,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], StepResult]:
    """Compiled step `(step, inputs, targets) -> StepResult`.

    Args:
        model: called as `model(inputs, training=True, seed=(2,) int32)`; for a large vocabulary, see
            `training.evaluation.is_loss_chunked`.
        optimizer: built for the model's trainable variables.
        config: `accumulation_steps` micro-batches of a replica are processed one after the other; dropout is
            stateless, keyed by (seed, step, micro-batch, layer); `compile` is `graph` or `xla`, with several
            replicas of the gradients alone.
        clip_norm: maximum global norm of the gradient.
        replicas: inputs and targets are the rows of the batch that this worker reads.
    """
    gradients_of = make_gradient_function(model, config)
    update = make_update(optimizer, model.trainable_variables, clip_norm=clip_norm)
    use_xla = config.compile == "xla"

    if replicas.strategy is None:

        @tf.function(jit_compile=use_xla)
        def train_step(step, inputs, targets):
            count = tf.maximum(count_targets(targets), 1.0)
            return update(*gradients_of(inputs, targets, step, 0, count))

        return train_step

    # XLA cannot compile TensorFlow's collective operations on a CPU.
    summed_gradients_of = tf.function(gradients_of, jit_compile=use_xla)

    def replica_step(inputs, targets, step):
        # Micro-batches are numbered over all replicas, so that two replicas draw the dropout of one with
        # twice the accumulation_steps.
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * config.accumulation_steps
        loss, gradients = summed_gradients_of(inputs, targets, step, tf.convert_to_tensor(first), 1.0)
        count, loss, *gradients = all_reduced([count_targets(targets), loss, *gradients])
        count = tf.maximum(count, 1.0)
        return update(loss / count, [gradient / count for gradient in gradients])

    compiled = replicas.compile(replica_step)
    return lambda step, inputs, targets: compiled(inputs, targets, step=step)


def make_gradient_function(model: keras.Model, config: TrainingConfig) -> Callable:
    """Function `(inputs, targets, step, first, count) -> (loss, gradients)` of a replica's part of a batch.

    `first` is the number of its first micro-batch; sums over the targets are divided by `count`.
    """
    variables = model.trainable_variables

    @tf.autograph.experimental.do_not_convert  # converting the model takes seconds
    def micro_batch_gradients(inputs, targets, step_seed, number, count):
        micro_batch_seed = tf.random.experimental.stateless_fold_in(step_seed, number)  # (2,)
        options = {"label_smoothing": config.label_smoothing}
        with tf.GradientTape() as tape:
            if is_loss_chunked(model, inputs):
                features = model.features(inputs, training=True, seed=micro_batch_seed)  # (rows, length, dim)
                loss = chunked_cross_entropy(features, model.output_embeddings(), targets, **options)
            else:
                logits = model(inputs, training=True, seed=micro_batch_seed)  # (rows, ..., classes)
                loss = summed_cross_entropy(logits, targets, **options)
            loss /= count  # ()
        # Dense: Keras' Adam squares the slices of a sparse embedding gradient before it adds them up.
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    def gradients_of(inputs, targets, step, first, count):
        run_seed = tf.constant([config.seed, 0], tf.int32)  # (2,)
        step_seed = tf.random.experimental.stateless_fold_in(run_seed, step)  # (2,)
        if config.accumulation_steps == 1:
            return micro_batch_gradients(inputs, targets, step_seed, first, count)
        # XLA cannot slice rows at an index that it does not know; it can index a leading axis.
        inputs, targets = (
            tf.stack(tf.split(rows, config.accumulation_steps))  # (accumulation, rows, ...)
            for rows in (inputs, targets)  # (accumulation * rows, ...)
        )
        loss, total = tf.constant(0.0), [tf.zeros_like(variable) for variable in variables]
        for index in tf.range(config.accumulation_steps):
            # Otherwise TensorFlow starts the next iteration before the memory of this one is free.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            micro_batch_loss, gradients = micro_batch_gradients(
                inputs[index], targets[index], step_seed, first + index, count
            )
            loss += micro_batch_loss
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        return loss, total

    return gradients_of


def make_update(
    optimizer: keras.Optimizer, variables: list[keras.Variable], *, clip_norm: float
) -> Callable[[tf.Tensor, list[tf.Tensor]], StepResult]:
    """Function `(loss, gradients) -> StepResult` that clips and applies finite gradients."""

    def update(loss, gradients):
        gradients, norm = tf.clip_by_global_norm(gradients, clip_norm)
        learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        if finite:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return StepResult(loss, norm, learning_rate, finite)

    return update
