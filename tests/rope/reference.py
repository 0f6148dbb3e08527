"""Rotary embeddings in NumPy float64 and complex numbers, written apart from the package."""

import numpy as np


def turned(x, angles, layout="interleaved"):
    """(..., features) with the first 2 * pairs features turned by (..., pairs) angles."""
    x, pairs = np.asarray(x, np.float64), angles.shape[-1]
    head, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if layout == "interleaved":
        turned_pairs = (head[..., ::2] + 1j * head[..., 1::2]) * np.exp(1j * angles)
        head = np.stack([turned_pairs.real, turned_pairs.imag], axis=-1).reshape(
            turned_pairs.shape[:-1] + (-1,)
        )
    else:
        turned_pairs = (head[..., :pairs] + 1j * head[..., pairs:]) * np.exp(1j * angles)
        head = np.concatenate([turned_pairs.real, turned_pairs.imag], axis=-1)
    return np.concatenate([head, np.broadcast_to(rest, (*head.shape[:-1], rest.shape[-1]))], axis=-1)


def language(dim, theta=10_000.0):
    return np.array([1 / theta ** (2 * i / dim) for i in range(dim // 2)])


def angles_of(positions, frequencies):
    return np.multiply.outer(np.asarray(positions, np.float64), np.asarray(frequencies, np.float64))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
