"""Optimizers: AdamW and Muon with linear warm-up and cosine decay."""

import keras
import tensorflow as tf

from training.config import OptimizerConfig

# Variables whose path matches one of these are updated by AdamW under `name=muon`, as are embeddings and all
# variables that are not matrices.
NOT_UPDATED_BY_MUON = (r"^(?!.*/block_)", "frequencies")


# Coefficients of 1, G and G^2. Three iterations map singular values in [0.01, 1] into [0.73, 1.27] (Polar
# Express, Amsel et al. 2025, arXiv 2505.16932).
POLYNOMIALS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


class UpdatesThroughHandles:
    """Mixin for a Keras optimizer that runs inside a condition in a replica context.

    Each replica updates its own copies, by gradients that are equal on all replicas. Keras would leave the
    replica context to assign, which raises RuntimeError inside a condition; resource handles assign in place.
    Clipping, gradient accumulation, averaging and loss scaling of Keras are not supported.
    """

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        self._apply_weight_decay(trainable_variables)
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)
        self.assign_add(self.iterations, tf.ones((), self.iterations.dtype))

    def assign(self, variable, value):
        tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)

    def assign_add(self, variable, value):
        tf.raw_ops.AssignAddVariableOp(resource=variable.value.handle, value=value)

    def assign_sub(self, variable, value):
        tf.raw_ops.AssignSubVariableOp(resource=variable.value.handle, value=value)

    def _apply_weight_decay(self, variables):
        factor = 1 - tf.cast(self.learning_rate, tf.float32) * self.weight_decay
        for variable in variables:
            if self._use_weight_decay(variable):
                self.assign(variable, variable.value * factor)


class AdamW(UpdatesThroughHandles, keras.optimizers.AdamW):
    """Keras AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) with one fused operation for each variable."""

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        step = tf.cast(self.iterations + 1, tf.float32)
        self._beta_powers = [tf.pow(beta, step) for beta in (self.beta_1, self.beta_2)]
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self._beta_powers[0],
            beta2_power=self._beta_powers[1],
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Muon(UpdatesThroughHandles, keras.optimizers.Muon):
    """Keras Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), in fewer operations.

    An update of a matrix has the root mean square of an update of AdamW, 0.2 sqrt(max(rows, columns)) times
    an orthogonal matrix (Liu et al. 2025, arXiv 2502.16982), so that one weight decay serves both.
    """

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        self._apply_weight_decay(trainable_variables)
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        matrices, directions = [], []
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            if self._should_use_adamw(variable):
                self.update_step(gradient, variable, learning_rate)
                continue
            momentum = self.momentums[self._get_variable_index(variable)]
            average = self.momentum * momentum.value + gradient
            self.assign(momentum, average)
            matrices.append(variable)
            directions.append(self.momentum * average + gradient)  # Nesterov
        for variable, update in zip(matrices, orthogonalize(directions), strict=True):
            self.assign_sub(variable, self.lr_adjust(learning_rate * update))
        self.assign_add(self.iterations, tf.ones((), self.iterations.dtype))


@tf.function(autograph=False, jit_compile=True)
def orthogonalize(matrices: list[tf.Tensor]) -> list[tf.Tensor]:
    """Approximates U V^T for each matrix U S V^T by Newton-Schulz iterations, all matrices in one program.

    Each iteration multiplies X by a polynomial of G = X X^T, of the smaller size. The factors are products of
    polynomials of the first G, so that only the first and the last product have the size of X.
    """
    is_tall = [x.shape[0] > x.shape[1] for x in matrices]
    wide = [tf.transpose(x) if tall else x for x, tall in zip(matrices, is_tall, strict=True)]
    for size in {x.shape[0] for x in wide}:
        group = [index for index, x in enumerate(wide) if x.shape[0] == size]
        identity = tf.eye(size)
        gram = tf.stack([tf.matmul(wide[index], wide[index], transpose_b=True) for index in group])
        squared_norm = tf.linalg.trace(gram)[:, tf.newaxis, tf.newaxis] + 1e-14  # (group, 1, 1)
        gram /= squared_norm  # (group, size, size)
        factor = tf.math.rsqrt(squared_norm) * identity
        for a, b, c in POLYNOMIALS:
            polynomial = a * identity + b * gram + c * (gram @ gram)
            factor, gram = polynomial @ factor, polynomial @ gram @ polynomial
        for index, part in zip(group, tf.unstack(factor), strict=True):
            wide[index] = part @ wide[index]
    return [tf.transpose(x) if tall else x for x, tall in zip(wide, is_tall, strict=True)]


def make_optimizer(
    config: OptimizerConfig, variables: list[keras.Variable], *, num_steps: int
) -> AdamW | Muon:
    """Optimizer of a run, built for `variables`.

    Weight decay applies to variables of rank 2 and more, not to gains, biases or rotation frequencies; Muon
    to the matrices inside the blocks, not to embeddings or the head. At step `num_steps` the learning rate is
    `final_learning_rate_ratio` of its peak.
    """
    options = {
        "learning_rate": learning_rate_schedule(config, num_steps),
        "weight_decay": config.weight_decay,
        "epsilon": config.epsilon,
        "name": config.name,
    }
    if config.name == "adamw":
        optimizer = AdamW(beta_1=config.beta_1, beta_2=config.beta_2, **options)
    elif config.name == "muon":
        optimizer = Muon(
            adam_beta_1=config.beta_1,
            adam_beta_2=config.beta_2,
            adam_lr_ratio=config.adamw_learning_rate_ratio,
            momentum=0.95,
            exclude_layers=list(NOT_UPDATED_BY_MUON),
            **options,
        )
    else:
        raise ValueError(f"optimizer.name must be adamw or muon, got {config.name!r}.")
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
    optimizer.build(variables)
    return optimizer


def is_decayed(variable: keras.Variable) -> bool:
    return len(variable.shape) >= 2 and "frequencies" not in variable.name


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Learning rate of update 0, 1, ...: linear to `learning_rate` at `warmup_steps`, then a cosine."""
    warmup = config.warmup_steps
    return keras.optimizers.schedules.CosineDecay(
        # Not 0, so that the first update moves the weights.
        initial_learning_rate=config.learning_rate / (warmup + 1),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=max(1, num_steps - warmup),
        alpha=config.final_learning_rate_ratio,
    )
