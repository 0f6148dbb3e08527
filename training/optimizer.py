"""AdamW with warm-up and cosine decay."""

import keras
import tensorflow as tf

from training.config import OptimizerConfig


class FusedAdamW(keras.optimizers.AdamW):
    """Keras AdamW, where one operation updates a variable and its moments, and scalars are computed once.

    Takes dense gradients, and none of Keras' own clipping, accumulation, averaging and scaling. In a replica
    context it updates that replica's copies, by gradients that are the same on all: through handles, as
    `assign` would wait for the other replicas, which an update on a condition must not.
    """

    def apply(self, grads, trainable_variables=None):
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        step = tf.cast(self.iterations + 1, tf.float32)
        powers = [tf.pow(beta, step) for beta in (self.beta_1, self.beta_2)]
        kept = 1 - learning_rate * self.weight_decay
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            index = self._get_variable_index(variable)
            if self._use_weight_decay(variable):
                decayed = variable.value * kept
                tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=decayed)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )
        one = tf.ones((), self.iterations.dtype)
        tf.raw_ops.AssignAddVariableOp(resource=self.iterations.value.handle, value=one)


def make_optimizer(config: OptimizerConfig, variables: list[keras.Variable], *, num_steps: int) -> FusedAdamW:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), built for `variables`.

    Weight decay applies to variables of rank 2 and more, not to gains, biases or rotation frequencies.

    Args:
        config: learning rates, warm-up and decay.
        variables: all that is trained.
        num_steps: at which the learning rate has fallen to `final_learning_rate_ratio` of its peak.
    """
    optimizer = FusedAdamW(
        learning_rate=learning_rate_schedule(config, num_steps),
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        name="adamw",
    )
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
    optimizer.build(variables)
    return optimizer


def is_decayed(variable: keras.Variable) -> bool:
    return len(variable.shape) >= 2 and "frequencies" not in variable.name


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Learning rate of update 0, 1, ...: linear to `learning_rate` at `warmup_steps`, then a cosine."""
    warmup = config.warmup_steps
    return keras.optimizers.schedules.CosineDecay(
        # The first update moves by a step of the warm-up, not by nothing.
        initial_learning_rate=config.learning_rate / (warmup + 1),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=max(1, num_steps - warmup),
        alpha=config.final_learning_rate_ratio,
    )
