"""AdamW, fused."""

import keras
import tensorflow as tf


class FusedAdamW(keras.optimizers.AdamW):
    """Keras AdamW, where one operation updates a variable and its moments, and scalars are computed once.

    Takes dense gradients, and none of Keras' own clipping, accumulation, averaging and scaling. In a replica
    context it updates that replica's copies, by gradients that are the same on all: through handles, as
    `assign` would wait for the other replicas, which an update on a condition must not.
    """

    def apply(self, grads, trainable_variables=None):
        self._update(list(zip(grads, trainable_variables, strict=True)))
        one = tf.ones((), self.iterations.dtype)
        tf.raw_ops.AssignAddVariableOp(resource=self.iterations.value.handle, value=one)

    def _update(self, pairs: list[tuple[tf.Tensor, keras.Variable]]) -> None:
        """Moves each variable by its gradient."""
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        step = tf.cast(self.iterations + 1, tf.float32)
        powers = [tf.pow(beta, step) for beta in (self.beta_1, self.beta_2)]
        kept = 1 - learning_rate * self.weight_decay
        for gradient, variable in pairs:
            index = self._get_variable_index(variable)
            if self._use_weight_decay(variable):
                assign_here(variable, variable.value * kept)
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


def assign_here(variable: keras.Variable, value: tf.Tensor) -> None:
    """Assigns this replica's copy."""
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)
