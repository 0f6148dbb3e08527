"""AdamW, fused."""

import keras
import tensorflow as tf


class FusedAdamW(keras.optimizers.AdamW):
    """Keras AdamW, where one operation updates a variable and its moments, and scalars are computed once.

    Takes dense gradients, and none of Keras' own clipping, accumulation and averaging.
    """

    def _backend_apply_gradients(self, grads, trainable_variables):
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        step = tf.cast(self.iterations + 1, tf.float32)
        powers = [tf.pow(beta, step) for beta in (self.beta_1, self.beta_2)]
        kept = 1 - learning_rate * self.weight_decay
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            index = self._get_variable_index(variable)
            if self._use_weight_decay(variable):
                variable.value.assign(variable.value * kept)
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
