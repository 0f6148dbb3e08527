"""Frequencies of the rotated pairs, in NumPy float64; TensorFlow starts at the angles."""

import numpy as np


def language_frequencies(dim: int, *, theta: float = 10_000.0) -> np.ndarray:
    """Geometric frequencies of RoFormer (Su et al. 2021, arXiv 2104.09864): theta^(-2i / dim).

    Args:
        dim: number of rotated features, even.
        theta: rotation base; the longest wavelength is just under 2 pi theta tokens.

    Returns:
        (dim / 2,) radians per token, float64, from 1 downwards.

    Raises:
        ValueError: if `dim` is not a positive even number or `theta` is not above 1.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive even number to form rotation pairs, got {dim}.")
    if not theta > 1:
        raise ValueError(f"theta must be above 1, got {theta}.")
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
