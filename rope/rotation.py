"""Rotation of feature pairs by position: angles, tables and the rotation itself.

A pair (a, b) at angle t becomes (a cos t - b sin t, a sin t + b cos t). Two layouts say which features
are a pair: `interleaved` takes (x[2i], x[2i + 1]) (RoFormer, GPT-J), `half` takes (x[i], x[i + dim / 2])
(GPT-NeoX, Hugging Face Llama).
"""

from typing import NamedTuple

import tensorflow as tf

LAYOUTS = ("interleaved", "half")


class RotaryTable(NamedTuple):
    """Cosine and signed sine of every feature, (..., length, dim) float32, in one layout.

    The sine is negative for the first feature of a pair, so that a rotation is
    `x * cos + partner(x) * sin`, where `partner` swaps the two features of each pair.
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
    if positions.dtype in (tf.bfloat16, tf.float16):
        raise TypeError(f"positions must be integers or float32, got {positions.dtype.name}.")
    frequencies = tf.cast(frequencies, tf.float32)
    return tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies


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
    cos, sin = tf.cos(angles), tf.sin(angles)
    if layout == "interleaved":
        cos = tf.repeat(cos, 2, axis=-1)
        sin = tf.reshape(tf.stack([-sin, sin], axis=-1), tf.shape(cos))
    elif layout == "half":
        cos = tf.concat([cos, cos], axis=-1)
        sin = tf.concat([-sin, sin], axis=-1)
    else:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")
    return RotaryTable(cos, sin)


def rotate(x: tf.Tensor, table: RotaryTable, *, layout: str = "interleaved") -> tf.Tensor:
    """Rotates each pair of features by the table's angles.

    Multiplies in float32 and casts last, whatever the dtype of `x`.

    Args:
        x: (..., length, dim) queries or keys.
        table: from `rotary_table`, in the same layout; broadcasts against `x`.
        layout: `interleaved` or `half`.

    Returns:
        The rotated tensor, with the shape and dtype of `x`.

    Raises:
        ValueError: if `layout` is unknown or the table's last axis is not that of `x`.
    """
    if x.shape[-1] != table.cos.shape[-1]:
        raise ValueError(
            f"x has {x.shape[-1]} features, its rotary table {table.cos.shape[-1]}; they must be equal."
        )
    rotated = tf.cast(x, tf.float32) * table.cos + tf.cast(_partner(x, layout), tf.float32) * table.sin
    return tf.cast(rotated, x.dtype)


def _partner(x: tf.Tensor, layout: str) -> tf.Tensor:
    """Swaps the two features of each pair."""
    shape, dim = tf.shape(x), x.shape[-1]
    if layout == "interleaved":
        # Reversing an axis of two is several times faster than unstacking and stacking it.
        pairs, axis = tf.reshape(x, tf.concat([shape[:-1], [dim // 2, 2]], axis=0)), -1
    elif layout == "half":
        pairs, axis = tf.reshape(x, tf.concat([shape[:-1], [2, dim // 2]], axis=0)), -2
    else:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")
    return tf.reshape(tf.reverse(pairs, [axis]), shape)
