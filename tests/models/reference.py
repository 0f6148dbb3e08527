"""Parts of the models in NumPy, for the tests that compare a whole model with them."""

import numpy as np


def relative_difference(a, b):
    """Largest difference, in standard deviations of `b`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.max(abs(a - b)) / np.std(b)


def rms_norm(x, scale, epsilon=1e-5):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon) * scale


def rotated(x, angles, layout):
    """(length, head_dim) features, each pair rotated by its angle of (length, head_dim / 2)."""
    if layout == "half":
        first, second = np.split(x, 2, axis=-1)
        z = (first + 1j * second) * np.exp(1j * angles)
        return np.concatenate([z.real, z.imag], axis=-1)
    z = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)
