"""Scalings of the frequencies for contexts longer than the trained one, in NumPy float64.

Each scheme is a pure function of (dim / 2,) frequencies that returns a `Scaled`. Its keyword arguments are
the keys of a Hugging Face `rope_scaling` dict, which `rope.scaling` has checked to be positive, and `factor`
to be at least 1; only `theta` and `target_length` come from the embedding.

Schemes that depend on the sequence length take a fixed `target_length`. If the frequencies followed the
length of each call, they would not match the keys that are already cached.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Scaled(NamedTuple):
    """Scaled frequencies, (dim / 2,) radians per token in float64, and the factor on cosines and sines."""

    frequencies: np.ndarray
    attention_factor: float = 1.0


def default(frequencies: np.ndarray) -> Scaled:
    """No scaling."""
    return Scaled(frequencies)


def linear(frequencies: np.ndarray, *, factor: float) -> Scaled:
    """Positional interpolation (Chen et al. 2023, arXiv 2306.15595): divides every frequency by `factor`."""
    return Scaled(frequencies / factor)


def ntk(frequencies: np.ndarray, *, theta: float, factor: float) -> Scaled:
    """NTK-aware scaling (bloc97 2023): keeps the first frequency and divides the last by `factor`."""
    return Scaled(rebased(frequencies, theta, factor))


def dynamic(
    frequencies: np.ndarray,
    *,
    theta: float,
    target_length: int,
    factor: float,
    original_max_position_embeddings: int,
) -> Scaled:
    """Dynamic NTK (emozilla 2023) for sequences of `target_length`; no scaling up to the original length."""
    stretch = max(target_length / original_max_position_embeddings, 1)
    return Scaled(rebased(frequencies, theta, factor * stretch - (factor - 1)))


def yarn(
    frequencies: np.ndarray,
    *,
    theta: float,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    mscale: float | None = None,
    mscale_all_dim: float | None = None,
    attention_factor: float | None = None,
) -> Scaled:
    """YaRN (Peng et al. 2023, arXiv 2309.00071), with a ramp linear in the pair index as in its code.

    Keeps pairs that turn more than `beta_fast` times within the original length, and divides those that turn
    less than `beta_slow` times by `factor`. `mscale` and `mscale_all_dim`, from DeepSeek, are given together.
    """
    if not beta_fast > beta_slow:
        raise ValueError(f"scaling beta_fast must be above beta_slow {beta_slow}, got {beta_fast}.")
    dim = 2 * len(frequencies)

    def pair_index(turns: float) -> float:
        """Fractional index of the pair that makes `turns` turns within the original length."""
        wavelength = original_max_position_embeddings / turns
        return dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_index(beta_fast), pair_index(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low = max(low, 0)
    # For original lengths below 7 and for very large ones, high < low would invert the ramp.
    high = max(min(high, dim - 1), low)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)  # (dim / 2,)
    log = 0.1 * math.log(factor)
    if attention_factor is not None:
        unread_beside("attention_factor", mscale=mscale, mscale_all_dim=mscale_all_dim)
    elif mscale is None and mscale_all_dim is None:
        attention_factor = log + 1
    elif mscale is None or mscale_all_dim is None:
        raise ValueError(f"scaling mscale and mscale_all_dim go together, got {mscale} and {mscale_all_dim}.")
    else:
        attention_factor = (mscale * log + 1) / (mscale_all_dim * log + 1)
    return Scaled(frequencies / factor * ramp + frequencies * (1 - ramp), attention_factor)


def llama3(
    frequencies: np.ndarray,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Scaled:
    """Llama 3.1 (arXiv 2407.21783): divides low frequencies by `factor`, keeps high ones, blends between."""
    if not high_freq_factor > low_freq_factor:
        limit = f"low_freq_factor {low_freq_factor}"
        raise ValueError(f"scaling high_freq_factor must be above {limit}, got {high_freq_factor}.")
    turns = original_max_position_embeddings * frequencies / (2 * np.pi)  # (dim / 2,)
    keep = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return Scaled((1 - keep) * frequencies / factor + keep * frequencies)


def longrope(
    frequencies: np.ndarray,
    *,
    target_length: int,
    short_factor: Sequence[float],
    long_factor: Sequence[float],
    original_max_position_embeddings: int,
    factor: float | None = None,
    max_position_embeddings: int | None = None,
    attention_factor: float | None = None,
) -> Scaled:
    """LongRoPE (Ding et al. 2024, arXiv 2402.13753): divides each pair by a factor of its own.

    `short_factor` applies up to the original length, `long_factor` to a longer `target_length`. A missing
    attention factor is computed from `factor`, or from `max_position_embeddings` / original length.
    """
    for key, values in (("short_factor", short_factor), ("long_factor", long_factor)):
        if np.shape(values) != frequencies.shape or not np.min(values) > 0:
            count = len(frequencies)  # dim / 2
            raise ValueError(f"scaling {key} must hold {count} positive numbers, got {len(values)}.")
    original = original_max_position_embeddings
    if attention_factor is not None:
        unread_beside("attention_factor", factor=factor, max_position_embeddings=max_position_embeddings)
    elif factor is not None:
        unread_beside("factor", max_position_embeddings=max_position_embeddings)
        attention_factor = longrope_attention_factor(factor, original)
    elif max_position_embeddings is not None:
        attention_factor = longrope_attention_factor(max_position_embeddings / original, original)
    else:
        raise ValueError("scaling longrope needs factor, max_position_embeddings or attention_factor.")
    divisors = long_factor if target_length > original else short_factor
    return Scaled(frequencies / np.array(divisors), attention_factor)


def longrope_attention_factor(factor: float, original: int) -> float:
    """sqrt(1 + ln(factor) / ln(original)), for a factor of at least 1."""
    if not original > 1:
        raise ValueError(f"scaling original_max_position_embeddings must be above 1, got {original}.")
    return math.sqrt(1 + math.log(max(factor, 1)) / math.log(original))


def proportional(frequencies: np.ndarray, *, partial_rotary_factor: float, factor: float = 1.0) -> Scaled:
    """p-RoPE (Barbero et al. 2024, arXiv 2410.06205): rotates only the fastest share of the pairs.

    Unlike partial rotation, it keeps the frequencies of the whole head, and the unrotated pairs are the last
    ones in either layout. `factor` divides the frequencies.
    """
    if not 0 < partial_rotary_factor <= 1:
        raise ValueError(f"scaling partial_rotary_factor must be in (0, 1], got {partial_rotary_factor}.")
    is_rotated = np.arange(len(frequencies)) < int(partial_rotary_factor * len(frequencies))
    return Scaled(np.where(is_rotated, frequencies / factor, 0.0))


def rescaled_theta(theta: float, dim: int, factor: float) -> float:
    """Rotation base of NTK-aware scaling by `factor`: theta factor^(dim / (dim - 2))."""
    if factor == 1:
        return theta
    if dim == 2:
        raise ValueError(f"theta_rescale_factor must be 1 with dim 2, got {factor}. Use interpolate_factor.")
    return float(theta * factor ** (dim / (dim - 2)))


def rebased(frequencies: np.ndarray, theta: float, factor: float) -> np.ndarray:
    """Language frequencies of base `theta`, converted to the base of NTK-aware scaling by `factor`."""
    dim = 2 * len(frequencies)
    ratio = rescaled_theta(theta, dim, factor) / theta
    return frequencies * ratio ** (-np.arange(0, dim, 2) / dim)


def unread_beside(key: str, **others: object) -> None:
    """Raises ValueError for any of `others` that is set and would have no effect next to `key`."""
    if unread := [name for name, value in others.items() if value is not None]:
        raise ValueError(f"scaling {key} replaces {', '.join(unread)}, got both. Leave one of them out.")
