"""xPos: a decay over distance on top of the rotation (Sun et al. 2022, arXiv 2212.10554).

Queries are multiplied by zeta^((position - centre) / scale_base) and keys by its inverse, so that the score
of each pair decays by zeta^(distance / scale_base). The centre cancels, if it is the same for queries and
keys: a constant of the embedding, not the middle of each call. For keys after their query the factor exceeds
1, so xPos is for causal attention.
"""

import numpy as np
import tensorflow as tf

from rope.rotation import check_positions_dtype

GAMMA = 0.4
# In units of scale_base, the length at which the scales of the fastest decay reach 150.
MAX_SPAN_FLOAT16 = 8


def xpos_decays(dim: int) -> np.ndarray:
    """(dim / 2,) zeta of each pair, float64: (2i / dim + 0.4) / 1.4."""
    return (np.arange(0, dim, 2) / dim + GAMMA) / (1 + GAMMA)


def xpos_scales(
    positions: tf.Tensor, dim: int, *, scale_base: float, centre: float, interpolate_factor: float = 1.0
) -> tf.Tensor:
    """Scale of each pair of the queries; that of the keys is its inverse.

    Args:
        positions: (..., length) positions in tokens, integers or float32.
        dim: rotated features.
        scale_base: tokens over which a score decays by zeta.
        centre: position with scale 1.
        interpolate_factor: divides the distances, as it divides the positions of the rotation.

    Returns:
        (..., length, dim / 2) float32.
    """
    positions = tf.convert_to_tensor(positions)
    check_positions_dtype(positions)
    powers = (tf.cast(positions, tf.float32) - centre) / (interpolate_factor * scale_base)  # (..., length)
    logs = tf.constant(np.log(xpos_decays(dim)), tf.float32)  # (dim / 2,)
    return tf.exp(powers[..., tf.newaxis] * logs)  # (..., length, dim / 2)


def check_positions(positions: tf.Tensor, max_length: int) -> None:
    """Raises ValueError if positions, or in a `tf.function` their number, exceed [0, max_length)."""
    known = tf.get_static_value(positions)
    if known is not None and known.size:
        lowest, highest = np.min(known), np.max(known)
    else:
        lowest, highest = 0, (positions.shape[-1] or 1) - 1
    if lowest < 0 or highest >= max_length:
        raise ValueError(
            f"xPos positions must be in [0, xpos_max_length {max_length}), got {lowest} to {highest}. "
            "A larger xpos_max_length leaves trained weights valid."
        )
