"""One update of the weights."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

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
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], StepResult]:
    """The compiled step `(step, inputs, targets) -> StepResult`.

    Every draw is stateless: dropout is keyed by (seed, step, micro-batch, layer).

    Args:
        model: called as `model(inputs, training=True, seed=(2,) int32)`.
        optimizer: built for the model's trainable variables.
        accumulation_steps: number of micro-batches that a batch is worked off in; divides its rows.
        clip_norm: the gradient's global norm is at most this when it is applied.
        label_smoothing: of the loss, see `summed_cross_entropy`.
        seed: of the run.
        compile_mode: `graph` or `xla`.
    """
    variables = model.trainable_variables

    def micro_batch_gradients(inputs, targets, step_seed, index, count):
        seed_pair = tf.random.experimental.stateless_fold_in(step_seed, index)
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True, seed=seed_pair)
            loss = summed_cross_entropy(logits, targets, label_smoothing=label_smoothing)[0] / count
        # Dense: Keras' Adam squares the slices of a sparse embedding gradient before it adds them up.
        return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]

    def batch_gradients(inputs, targets, step_seed):
        count = tf.maximum(tf.reduce_sum(tf.cast(targets >= 0, tf.float32)), 1.0)
        if accumulation_steps == 1:
            return micro_batch_gradients(inputs, targets, step_seed, 0, count)
        # (accumulation_steps, rows, ...): XLA cannot cut a range of rows that depends on the index.
        inputs, targets = (tf.stack(tf.split(part, accumulation_steps)) for part in (inputs, targets))
        loss, total = tf.constant(0.0), [tf.zeros_like(variable) for variable in variables]
        for index in tf.range(accumulation_steps):
            micro_loss, gradients = micro_batch_gradients(
                inputs[index], targets[index], step_seed, index, count
            )
            loss += micro_loss
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        return loss, total

    @tf.function(jit_compile=compile_mode == "xla")
    def train_step(step, inputs, targets):
        step_seed = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], tf.int32), step)
        loss, gradients = batch_gradients(inputs, targets, step_seed)
        gradients, norm = tf.clip_by_global_norm(gradients, clip_norm)
        learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        if finite:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return StepResult(loss, norm, learning_rate, finite)

    return train_step
