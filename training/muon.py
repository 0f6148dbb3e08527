"""Muon: momentum whose matrices are orthogonalised before they are a step."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from training.adamw import FusedAdamW, assign_here

MOMENTUM = 0.95
ITERATIONS = 5
# Of an odd polynomial that takes singular values in (0, 1] to about 1 in few iterations; from Jordan et al.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# The root mean square of an update of AdamW.
UPDATE_RMS = 0.2
# Keeps a gradient of zeros from being divided by its norm.
SMALLEST_NORM = 1e-7


class Muon(FusedAdamW):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for some matrices, AdamW for the
    rest.

    An update is scaled to the size of one of AdamW (Liu et al. 2025, arXiv 2502.16982), so that one learning
    rate and one weight decay serve both. Args are those of `FusedAdamW`, and

        matrices: variables (rows, columns) that are updated by Muon; the others are by AdamW.
    """

    def __init__(self, *, matrices: Sequence[keras.Variable], **options):
        super().__init__(**options)
        self._matrices = {id(variable) for variable in matrices}

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        keras.optimizers.Optimizer.build(self, variables)  # Adam's would give each matrix a velocity
        self._momentums = self.add_optimizer_variables(variables, "momentum")
        self._velocities = [
            None if self._is_matrix(variable) else self.add_variable_from_reference(variable, "velocity")
            for variable in variables
        ]

    def _is_matrix(self, variable: keras.Variable) -> bool:
        return id(variable) in self._matrices

    def _update(self, pairs):
        super()._update([pair for pair in pairs if not self._is_matrix(pair[1])])
        matrices = [pair for pair in pairs if self._is_matrix(pair[1])]
        learning_rate = tf.cast(self.learning_rate, tf.float32)
        kept = 1 - learning_rate * self.weight_decay
        directions = orthogonalised([self._moved(gradient, variable) for gradient, variable in matrices])
        for direction, (_, variable) in zip(directions, matrices, strict=True):
            value = variable.value * kept if self._use_weight_decay(variable) else variable.value
            scale = learning_rate * UPDATE_RMS * max(variable.shape) ** 0.5
            assign_here(variable, value - scale * direction)

    def _moved(self, gradient: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
        """Nesterov's momentum, after this gradient."""
        momentum = self._momentums[self._get_variable_index(variable)]
        moved = MOMENTUM * momentum.value + (1 - MOMENTUM) * gradient
        assign_here(momentum, moved)
        return MOMENTUM * moved + (1 - MOMENTUM) * gradient


def orthogonalised(matrices: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Each matrix (rows, columns) with its singular vectors, and singular values near 1.

    Those of 0.003 of its norm or more come out between 0.68 and 1.21, smaller ones below. By Newton-Schulz
    iterations, those of equal shape, or of a shape and its transpose, at once.
    """
    of_shape: dict[tuple, list[int]] = {}
    for index, matrix in enumerate(matrices):
        of_shape.setdefault(tuple(sorted(matrix.shape)), []).append(index)
    found = list(matrices)
    for indices in of_shape.values():
        together = newton_schulz(tf.stack([wide(matrices[index]) for index in indices]))
        for index, matrix in zip(indices, tf.unstack(together), strict=True):
            found[index] = matrix if is_wide(found[index]) else tf.transpose(matrix)
    return found


def is_wide(matrix: tf.Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def wide(matrix: tf.Tensor) -> tf.Tensor:
    return matrix if is_wide(matrix) else tf.transpose(matrix)


def newton_schulz(x: tf.Tensor) -> tf.Tensor:
    """(count, rows, columns) of no more rows than columns, orthogonalised."""
    a, b, c = COEFFICIENTS
    x /= tf.norm(x, axis=(1, 2), keepdims=True) + SMALLEST_NORM
    for _ in range(ITERATIONS):
        gram = tf.matmul(x, x, transpose_b=True)
        x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
    return x
