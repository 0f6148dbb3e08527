"""The formulas that stretch rotary embeddings to longer contexts than they were trained on.

Each scheme is a pure function of frequencies, in NumPy float64: it returns the scaled frequencies and the
attention factor, by which cosines and sines are multiplied. Its keyword arguments are the keys that the
`rope_scaling` dict of a Hugging Face `config.json` may hold for it, read by `rope.scaling`; only `theta` and
`target_length` come from the embedding.

A scheme whose frequencies depend on the length of the sequence takes it as `target_length`, fixed when the
embedding is made. Were it the length of a call, the keys in a cache would keep the angles of another regime.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rope.frequencies import rescaled_theta


class Scaled(NamedTuple):
    """Frequencies (dim / 2,) in radians per token, float64, and the factor on cosines and sines."""

    frequencies: np.ndarray
    attention_factor: float = 1.0


def default(frequencies: np.ndarray) -> Scaled:
    """No scaling."""
    return Scaled(frequencies)


def linear(frequencies: np.ndarray, *, factor: float) -> Scaled:
    """Positional interpolation (Chen et al. 2023, arXiv 2306.15595): every frequency divided by `factor`."""
    at_least_one("factor", factor)
    return Scaled(frequencies / factor)


def ntk(frequencies: np.ndarray, *, theta: float, factor: float) -> Scaled:
    """NTK-aware scaling (bloc97 2023): the first frequency stays, the last is divided by `factor`."""
    at_least_one("factor", factor)
    return Scaled(rebased(frequencies, theta, factor))


def dynamic(
    frequencies: np.ndarray,
    *,
    theta: float,
    target_length: int,
    factor: float,
    original_max_position_embeddings: int,
) -> Scaled:
    """Dynamic NTK (emozilla 2023) at a sequence length of `target_length`; up to the original, no scaling."""
    at_least_one("factor", factor)
    positive("original_max_position_embeddings", original_max_position_embeddings)
    positive("target_length", target_length)
    stretch = max(target_length, original_max_position_embeddings) / original_max_position_embeddings
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
    """YaRN (Peng et al. 2023, arXiv 2309.00071), with the ramp of its code: linear in the index of the pair.

    Pairs that turn more than `beta_fast` times within the original length stay, those that turn less than
    `beta_slow` times are divided by `factor`. `mscale` and `mscale_all_dim` are DeepSeek's; both or neither.
    """
    at_least_one("factor", factor)
    positive("original_max_position_embeddings", original_max_position_embeddings)
    positive("beta_slow", beta_slow)
    if not beta_fast > beta_slow:
        raise ValueError(f"scaling beta_fast must be above beta_slow {beta_slow}, got {beta_fast}.")
    dim = 2 * len(frequencies)

    def index_of(turns):
        """Index of the pair that makes so many turns within the original length."""
        wavelength = original_max_position_embeddings / turns
        return dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    low, high = index_of(beta_fast), index_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low = max(low, 0)
    # Never below `low`, or the ramp would be inverted: for original lengths under 7, and for enormous ones.
    high = max(min(high, dim - 1), low)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    if attention_factor is not None:
        unread_beside("attention_factor", mscale=mscale, mscale_all_dim=mscale_all_dim)
        positive("attention_factor", attention_factor)
    elif (mscale is None) != (mscale_all_dim is None):
        raise ValueError(
            f"scaling mscale and mscale_all_dim go together, got {mscale} and {mscale_all_dim}. "
            "Give both, or neither."
        )
    elif mscale is not None:
        positive("mscale", mscale)
        positive("mscale_all_dim", mscale_all_dim)
        attention_factor = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    else:
        attention_factor = yarn_mscale(factor)
    return Scaled(frequencies / factor * ramp + frequencies * (1 - ramp), attention_factor)


def llama3(
    frequencies: np.ndarray,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Scaled:
    """Llama 3.1 (arXiv 2407.21783): long wavelengths divided by `factor`, short ones kept, a blend."""
    at_least_one("factor", factor)
    positive("original_max_position_embeddings", original_max_position_embeddings)
    positive("low_freq_factor", low_freq_factor)
    if not high_freq_factor > low_freq_factor:
        raise ValueError(
            f"scaling high_freq_factor must be above low_freq_factor {low_freq_factor}, "
            f"got {high_freq_factor}."
        )
    turns = original_max_position_embeddings * frequencies / (2 * np.pi)
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
    """LongRoPE (Ding et al. 2024, arXiv 2402.13753): each pair divided by a factor of its own.

    `short_factor` up to the original length, `long_factor` for a longer `target_length`. The attention factor
    is given, or follows from `factor` or from `max_position_embeddings` over the original length.
    """
    positive("original_max_position_embeddings", original_max_position_embeddings)
    positive("target_length", target_length)
    divisors = {"short_factor": short_factor, "long_factor": long_factor}
    for key, values in divisors.items():
        divisors[key] = np.array(values, dtype=np.float64)
        if divisors[key].shape != frequencies.shape or not (divisors[key] > 0).all():
            raise ValueError(
                f"scaling {key} must hold {len(frequencies)} positive numbers, one for each rotated pair; "
                f"got {len(values)}."
            )
    if attention_factor is not None:
        unread_beside("attention_factor", factor=factor, max_position_embeddings=max_position_embeddings)
        positive("attention_factor", attention_factor)
    else:
        if factor is not None:
            unread_beside("factor", max_position_embeddings=max_position_embeddings)
        elif max_position_embeddings is not None:
            factor = max_position_embeddings / original_max_position_embeddings
        else:
            raise ValueError(
                "scaling longrope needs factor, max_position_embeddings or attention_factor, got none. "
                "max_position_embeddings stands beside rope_scaling in a config.json."
            )
        positive("factor", factor)
        if not original_max_position_embeddings > 1:
            raise ValueError(
                "scaling original_max_position_embeddings must be above 1, as the attention factor "
                f"divides by its logarithm, got {original_max_position_embeddings}. "
                "Correct it, or give attention_factor."
            )
        logs = math.log(max(factor, 1)) / math.log(original_max_position_embeddings)
        attention_factor = math.sqrt(1 + logs)
    regime = "long_factor" if target_length > original_max_position_embeddings else "short_factor"
    return Scaled(frequencies / divisors[regime], attention_factor)


def proportional(frequencies: np.ndarray, *, partial_rotary_factor: float, factor: float = 1.0) -> Scaled:
    """p-RoPE (Barbero et al. 2024, arXiv 2410.06205): only the fastest share of the pairs turns.

    Unlike a partial rotation, it keeps the frequencies of the whole head, and the pairs that do not turn lie
    where the layout puts the last ones. `factor` divides the frequencies.
    """
    at_least_one("factor", factor)
    if not 0 < partial_rotary_factor <= 1:
        raise ValueError(f"scaling partial_rotary_factor must be in (0, 1], got {partial_rotary_factor}.")
    turning = np.arange(len(frequencies)) < int(partial_rotary_factor * len(frequencies))
    return Scaled(np.where(turning, frequencies / factor, 0.0))


def rebased(frequencies: np.ndarray, theta: float, factor: float) -> np.ndarray:
    """Language frequencies of `theta`, as those of its NTK-aware rescaling."""
    dim = 2 * len(frequencies)
    ratio = rescaled_theta(theta, dim, factor) / theta
    return frequencies * ratio ** (-np.arange(0, dim, 2) / dim)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0


def at_least_one(key: str, value: float) -> None:
    if not value >= 1:
        raise ValueError(f"scaling {key} must be >= 1, got {value}.")


def positive(key: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"scaling {key} must be > 0, got {value}.")


def unread_beside(key: str, **others: object) -> None:
    """Raises if one of `others` is given, which has no effect once `key` is."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ValueError(
            f"scaling {key} replaces what {', '.join(given)} would say, got both. Leave one of them out."
        )
