"""Rotary embeddings in NumPy float64 and complex numbers, independent of the package."""

import numpy as np

ORIGINAL = {"original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2, 3, 4], "factor": 4.0}
SCHEMES = {
    "plain": {},
    "theta": {"theta": 500.0},
    "interpolated": {"interpolate_factor": 4.0},
    "rescaled": {"theta_rescale_factor": 4.0},
    "linear": {"scaling": {"rope_type": "linear", "factor": 4.0}},
    "ntk": {"scaling": {"rope_type": "ntk", "factor": 4.0}},
    "dynamic": {"scaling": {"rope_type": "dynamic", "factor": 4.0, **ORIGINAL}, "target_length": 256},
    "yarn": {"scaling": {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}},
    "llama3": {"scaling": LLAMA3},
    "longrope": {"scaling": {**LONGROPE, **ORIGINAL}, "target_length": 256},
    "proportional": {"scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.5}},
    "partial": {"scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "custom": {"custom_freqs": [2.0, 0.5, 0.1, 0.0]},
    "pixel": {"freqs_for": "pixel"},
    "learned": {"learned_freq": True},
    "xpos": {"use_xpos": True},
}


def turned(x, angles, layout="interleaved"):
    """(..., features) with the first 2 * pairs features rotated by (..., pairs) angles."""
    x, pairs = np.asarray(x, np.float64), angles.shape[-1]
    head, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if layout == "interleaved":
        z = (head[..., ::2] + 1j * head[..., 1::2]) * np.exp(1j * angles)
        head = np.stack([z.real, z.imag], axis=-1).reshape(*z.shape[:-1], -1)
    else:
        z = (head[..., :pairs] + 1j * head[..., pairs:]) * np.exp(1j * angles)
        head = np.concatenate([z.real, z.imag], axis=-1)
    return np.concatenate([head, np.broadcast_to(rest, (*head.shape[:-1], rest.shape[-1]))], axis=-1)


def doubled(per_pair, layout="interleaved"):
    """(..., pairs) values as (..., 2 * pairs), at both features of each pair."""
    if layout == "half":
        return np.concatenate([per_pair, per_pair], axis=-1)
    return np.repeat(per_pair, 2, axis=-1)


def language(dim, theta=10_000.0):
    return np.array([1 / theta ** (2 * i / dim) for i in range(dim // 2)])


def angles_of(positions, frequencies):
    return np.multiply.outer(np.asarray(positions, np.float64), np.asarray(frequencies, np.float64))


def grid(*angles):
    """(*sizes, sum of pairs) angles of a grid: one block of (size, pairs) angles for each axis."""
    cells = np.indices([len(block) for block in angles])  # (axes, *sizes)
    return np.concatenate([block[index] for block, index in zip(angles, cells, strict=True)], axis=-1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
