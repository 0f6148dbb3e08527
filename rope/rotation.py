"""Rotation of feature pairs by position: angles, tables and the rotation itself.

A pair (a, b) at angle t becomes (a cos t - b sin t, a sin t + b cos t). Two layouts say which features
are a pair: `interleaved` takes (x[2i], x[2i + 1]) (RoFormer, GPT-J), `half` takes (x[i], x[i + dim / 2])
(GPT-NeoX, Hugging Face Llama).
"""

from typing import NamedTuple

import tensorflow as tf

LAYOUTS = ("interleaved", "half")
HALF_PRECISION = (tf.bfloat16, tf.float16)


class RotaryTable(NamedTuple):
    """Cosine and signed sine of every feature, (..., length, dim) float32, in one layout.

    The sine is negative for the first feature of a pair, so that a rotation is
    `x * cos + partner(x) * sin`, where `partner` swaps the two features of each pair. Both carry what scales
    the rotated features: xPos, or the attention factor of YaRN and LongRoPE.
    """

    cos: tf.Tensor
    sin: tf.Tensor


def rotary_angles(positions: tf.Tensor, frequencies: tf.Tensor) -> tf.Tensor:
    """Angle of each rotated pair at each position.

    Always float32: in bfloat16 the positions 256 and 257 are the same number.

    Args:
        positions: (..., length) positions, in tokens; need not start at 0.
        frequencies: (dim / 2,) radians per token.

    Returns:
        (..., length, dim / 2) angles in radians, float32.

    Raises:
        TypeError: if `positions` are bfloat16 or float16, which do not hold the integers past 256 or 2,048.
    """
    positions = tf.convert_to_tensor(positions)
    check_positions_dtype(positions)
    frequencies = tf.cast(frequencies, tf.float32)
    return tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies


def doubled(per_pair: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """A number for each pair, as one for each feature: (..., dim / 2) to (..., dim), in a layout.

    Of angles, this is the table of angles that `apply_rotary_emb` takes.

    Raises:
        ValueError: if `layout` is unknown.
    """
    check_layout(layout)
    if layout == "half":
        return tf.concat([per_pair, per_pair], axis=-1)
    return tf.repeat(per_pair, 2, axis=-1)


def rotary_table(angles: tf.Tensor, *, layout: str = "interleaved") -> RotaryTable:
    """Table for `rotate`, from the angle of each pair.

    Args:
        angles: (..., length, dim / 2) radians, float32.
        layout: `interleaved` or `half`.

    Returns:
        A `RotaryTable` of (..., length, dim) tensors, float32.

    Raises:
        ValueError: if `layout` is unknown.
    """
    check_layout(layout)
    cos, sin = tf.cos(angles), tf.sin(angles)
    if layout == "half":
        signed_sin = tf.concat([-sin, sin], axis=-1)
    else:
        signed_sin = tf.stack([-sin, sin], axis=-1)
        signed_sin = tf.reshape(signed_sin, tf.concat([tf.shape(sin)[:-1], [2 * sin.shape[-1]]], axis=0))
    return RotaryTable(doubled(cos, layout=layout), signed_sin)


def composed_table(first: RotaryTable, second: RotaryTable) -> RotaryTable:
    """Table of one rotation after another: the angles add, the scales multiply. Both in one layout."""
    return RotaryTable(
        first.cos * second.cos - first.sin * second.sin, first.sin * second.cos + first.cos * second.sin
    )


def scaled_table(table: RotaryTable, scale: float | tf.Tensor) -> RotaryTable:
    """A table that also multiplies the features, by a number or by (..., length, dim) of them."""
    return RotaryTable(table.cos * scale, table.sin * scale)


def rotate(x: tf.Tensor, table: RotaryTable, *, layout: str = "interleaved") -> tf.Tensor:
    """Rotates each pair of features by the table's angles.

    Multiplies in float32 and casts last, whatever the dtype of `x`.

    Args:
        x: (..., length, head_dim) queries or keys.
        table: from `rotary_table`, in the same layout; (..., length, dim), broadcasts against `x`. When it is
            narrower than `x`, the first dim features are rotated and the others pass through.
        layout: `interleaved` or `half`.

    Returns:
        The rotated tensor, with the shape and dtype of `x`.

    Raises:
        ValueError: if `layout` is unknown or the table's last axis is longer than that of `x`.
    """
    head_dim, dim = x.shape[-1], table.cos.shape[-1]
    if head_dim < dim:
        raise ValueError(f"x has {head_dim} features, fewer than the {dim} of its rotary table.")
    if head_dim > dim:
        return tf.concat([rotate(x[..., :dim], table, layout=layout), x[..., dim:]], axis=-1)
    rotated = tf.cast(x, tf.float32) * table.cos + tf.cast(_partner(x, layout), tf.float32) * table.sin
    return tf.cast(rotated, x.dtype)


def check_positions_dtype(positions: tf.Tensor) -> None:
    if positions.dtype in HALF_PRECISION:
        raise TypeError(f"positions must be integers or float32, got {positions.dtype.name}.")


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")


def _partner(x: tf.Tensor, layout: str) -> tf.Tensor:
    """Swaps the two features of each pair."""
    check_layout(layout)
    shape, dim = tf.shape(x), x.shape[-1]
    if layout == "interleaved":
        # Reversing an axis of two is several times faster than unstacking and stacking it.
        pairs, axis = tf.reshape(x, tf.concat([shape[:-1], [dim // 2, 2]], axis=0)), -1
    else:
        pairs, axis = tf.reshape(x, tf.concat([shape[:-1], [2, dim // 2]], axis=0)), -2
    return tf.reshape(tf.reverse(pairs, [axis]), shape)
