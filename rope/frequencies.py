"""Frequencies of the rotated pairs before scaling, in NumPy float64."""

import math
from collections.abc import Sequence

import numpy as np

PIXEL_SPACINGS = ("linear", "log")


def language_frequencies(
    dim: int, *, theta: float = 10_000.0, theta_rescale_factor: float = 1.0
) -> np.ndarray:
    """Geometric frequencies of RoFormer (Su et al. 2021, arXiv 2104.09864): theta^(-2i / dim).

    Args:
        dim: number of rotated features, even.
        theta: rotation base; the longest wavelength is just under 2 pi theta tokens.
        theta_rescale_factor: factor s of NTK-aware scaling (bloc97 2023), which keeps the first frequency and
            divides the last by s: theta becomes theta s^(dim / (dim - 2)).

    Returns:
        (dim / 2,) radians per token, float64, decreasing from 1.

    Raises:
        ValueError: if `dim` is not a positive even number, `theta` is not above 1, or
            `theta_rescale_factor` is below 1, or not 1 with a single pair.
    """
    check_dim(dim)
    if not theta > 1:
        raise ValueError(f"theta must be above 1, got {theta}.")
    theta = rescaled_theta(theta, dim, theta_rescale_factor)
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def rescaled_theta(theta: float, dim: int, factor: float) -> float:
    """Rotation base of NTK-aware scaling by `factor`: theta factor^(dim / (dim - 2))."""
    if not factor >= 1:
        raise ValueError(f"theta_rescale_factor must be >= 1, got {factor}.")
    if factor == 1:
        return theta
    if dim == 2:
        raise ValueError(
            f"theta_rescale_factor must be 1 with dim 2, got {factor}: NTK-aware scaling keeps "
            "the first frequency and divides the last. Use interpolate_factor, or a dim of at least 4."
        )
    try:
        rescaled = float(theta * factor ** (dim / (dim - 2)))
    except OverflowError:
        rescaled = math.inf
    if rescaled == math.inf:
        raise ValueError(
            f"theta_rescale_factor must keep theta in the range of float64, got theta {theta}, "
            f"factor {factor} and dim {dim}. Use a smaller factor."
        )
    return rescaled


def pixel_frequencies(dim: int, *, max_freq: float = 10.0, spacing: str = "linear") -> np.ndarray:
    """Frequencies from pi to pi max_freq / 2, for coordinates in [-1, 1].

    Args:
        dim: number of rotated features, even.
        max_freq: twice the highest frequency, in half turns per unit; at least 2.
        spacing: `linear` (rotary-embedding-torch) or `log` (rotary-embedding-tensorflow, timm).

    Returns:
        (dim / 2,) radians per unit, float64, increasing from pi.

    Raises:
        ValueError: if an argument is out of its range.
    """
    check_dim(dim)
    if not max_freq >= 2:
        raise ValueError(f"max_freq must be >= 2, got {max_freq}.")
    if spacing == "linear":
        return np.pi * np.linspace(1.0, max_freq / 2, dim // 2)
    if spacing == "log":
        return np.pi * 2.0 ** np.linspace(0.0, np.log2(max_freq / 2), dim // 2)
    raise ValueError(f"pixel_spacing must be one of {', '.join(PIXEL_SPACINGS)}; got {spacing!r}.")


def constant_frequencies(num_freqs: int = 1) -> np.ndarray:
    """(num_freqs,) ones, float64, for positions that are angles, or as a start for learned frequencies."""
    if num_freqs < 1:
        raise ValueError(f"num_freqs must be >= 1, got {num_freqs}.")
    return np.ones(num_freqs)


def custom_frequencies(values: Sequence[float]) -> np.ndarray:
    """(dim / 2,) float64; raises ValueError unless `values` is a vector of finite numbers."""
    frequencies = np.array(values, dtype=np.float64)
    if frequencies.ndim != 1 or not frequencies.size or not np.isfinite(frequencies).all():
        raise ValueError(
            "custom_freqs must be a vector of finite numbers, one for each pair; "
            f"got shape {frequencies.shape}."
        )
    return frequencies


def rotary_dim(head_dim: int, fraction: float) -> int:
    """Number of rotated features in a partial rotation (GPT-NeoX, GPT-J, Phi): int(fraction head_dim).

    The frequencies are those of a head with that many features.

    Raises:
        ValueError: if `fraction` is not in (0, 1] or the result is not a positive even number.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the rotated fraction of a head must be in (0, 1], got {fraction}.")
    dim = int(fraction * head_dim)
    if dim < 2 or dim % 2:
        raise ValueError(
            f"the rotated part of a head must be even to form rotation pairs, "
            f"got {dim} of head_dim {head_dim} with fraction {fraction}."
        )
    return dim


def check_dim(dim: int) -> None:
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive even number to form rotation pairs, got {dim}.")
