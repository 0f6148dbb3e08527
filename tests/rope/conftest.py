import numpy as np
import pytest


@pytest.fixture(scope="session")
def by_complex_numbers():
    """The oracle: a pair (a, b) is a + bi, and a rotation a product of complex numbers, in float64."""

    def rotated(x, angles, layout):
        x = np.asarray(x, np.float64)
        half = x.shape[-1] // 2
        if layout == "interleaved":
            real, imaginary = x[..., 0::2], x[..., 1::2]
        else:
            real, imaginary = x[..., :half], x[..., half:]
        product = (real + 1j * imaginary) * np.exp(1j * np.asarray(angles, np.float64))
        if layout == "interleaved":
            return np.stack([product.real, product.imag], axis=-1).reshape(product.shape[:-1] + (2 * half,))
        return np.concatenate([product.real, product.imag], axis=-1)

    return rotated
