"""Rotation by doubled angles, (..., length, dim), with the names and arguments of rotary-embedding-torch.

Models use `rope.rotation`, which computes cosines and sines once for all layers.

Shape words: length; features, those of a head; dim, the rotated ones; pairs, dim / 2.
"""

from collections.abc import Sequence

import tensorflow as tf

from rope.positions import broadcasts, sequence_axis, size_of
from rope.rotation import as_features, check_layout, doubled


def rotate_half(x: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """Rotates each pair of features by 90 degrees, (a, b) to (-b, a); (..., dim)."""
    check_layout(layout)
    x = tf.convert_to_tensor(x)
    if x.shape[-1] is not None and x.shape[-1] % 2:
        raise ValueError(f"the last axis of x must be even to form rotation pairs, got shape {x.shape}.")
    if layout == "half":
        first, second = tf.split(x, 2, axis=-1)  # (..., dim / 2) each
        return tf.concat([-second, first], axis=-1)
    return tf.reshape(tf.stack([-x[..., 1::2], x[..., ::2]], axis=-1), tf.shape(x))  # (..., dim)


def apply_rotary_emb(
    freqs: tf.Tensor,
    t: tf.Tensor,
    start_index: int = 0,
    scale: float | tf.Tensor = 1.0,
    seq_dim: int = -2,
    freqs_seq_dim: int | None = None,
    *,
    layout: str = "interleaved",
) -> tf.Tensor:
    """Rotates features [start_index, start_index + dim) of `t`, in float32; the others pass through.

    Args:
        freqs: (..., length, dim) angles from `RotaryEmbedding(...)(positions)`; broadcasts against `t`. 2-D
            angles belong to axis `seq_dim` of `t`.
        t: (..., length, features) queries or keys. The result has its shape and dtype.
        scale: multiplies the rotated features; a number, or (length, dim), aligned like 2-D angles.
        seq_dim: sequence axis of `t`: -2, or -3 for (batch, length, heads, features).
        freqs_seq_dim: sequence axis of `freqs`. If given, or if `freqs` is 2-D, only the last `length` rows
            are used: queries are at the end of their keys.
        layout: `interleaved` or `half`.

    Raises:
        TypeError: if `freqs` are bfloat16 or float16.
        ValueError: if `t` lacks features to rotate, or `freqs` or `scale` do not match `t`.
    """
    freqs, t = tf.convert_to_tensor(freqs), as_features(t)
    if freqs.dtype in (tf.bfloat16, tf.float16):
        name = freqs.dtype.name
        raise TypeError(f"angles must be float32, got {name}. A layer that takes them needs autocast=False.")
    end, features = start_index + freqs.shape[-1], t.shape[-1]
    if start_index < 0 or end > features:
        raise ValueError(f"features [{start_index}, {end}) are to be rotated, but t has {features}.")
    axis = sequence_axis(t, seq_dim)
    freqs, scale = tf.cast(freqs, tf.float32), tf.convert_to_tensor(scale, tf.float32)
    if freqs_seq_dim is not None or freqs.shape.rank == 2:
        freqs = last_rows("freqs", freqs, t, axis, sequence_axis(freqs, freqs_seq_dim or 0))
    if scale.shape.rank == 2:
        scale = last_rows("scale", scale, t, axis, 0)
    x = tf.cast(t[..., start_index:end], tf.float32)  # (..., length, dim)
    if not broadcasts(freqs.shape, x.shape):
        raise ValueError(
            f"angles of shape {freqs.shape} do not match the features to rotate, {x.shape}. "
            "If these are positions of a grid, flatten its axes in both or in neither."
        )
    x = (x * tf.cos(freqs) + rotate_half(x, layout=layout) * tf.sin(freqs)) * scale
    pieces = [t[..., :start_index], tf.cast(x, t.dtype), t[..., end:]]
    return tf.concat([piece for piece in pieces if piece.shape[-1]], axis=-1)  # (..., length, features)


def apply_learned_rotations(
    rotations: tf.Tensor,
    t: tf.Tensor,
    start_index: int = 0,
    freq_ranges: Sequence[float] | tf.Tensor | None = None,
    *,
    layout: str = "interleaved",
) -> tf.Tensor:
    """Rotates the features of `t` from `start_index` by angles that a layer has predicted.

    Args:
        rotations: (..., length, pairs) angles in radians, any float dtype.
        t, start_index, layout: as for `apply_rotary_emb`. The result has the shape and dtype of `t`.
        freq_ranges: (ranges,) factors; each rotation then applies to `ranges` consecutive pairs, multiplied
            by one factor for each.
    """
    rotations, t = tf.cast(rotations, tf.float32), as_features(t)
    if freq_ranges is not None:
        factors = tf.reshape(tf.cast(freq_ranges, tf.float32), [-1])  # (ranges,)
        every_factor = tf.tile(factors, [rotations.shape[-1]])  # (pairs,)
        rotations = tf.repeat(rotations, factors.shape[0], axis=-1) * every_factor  # (..., length, pairs)
    return apply_rotary_emb(doubled(rotations, layout=layout), t, start_index, layout=layout)


def broadcat(tensors: Sequence[tf.Tensor], dim: int = -1) -> tf.Tensor:
    """Broadcasts the axes other than `dim` of tensors of one rank, then concatenates along `dim`."""
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    ranks = {tensor.shape.rank for tensor in tensors}
    if len(ranks) != 1:
        raise ValueError(f"broadcat needs tensors of one rank, got ranks {sorted(ranks)}.")
    axis = range(*ranks)[dim]
    index = (*[slice(None)] * axis, slice(1))
    zeros = sum(tf.zeros_like(tensor[index]) for tensor in tensors)
    return tf.concat([tensor + zeros for tensor in tensors], axis=axis)  # adding zeros broadcasts


def last_rows(name: str, values: tf.Tensor, t: tf.Tensor, axis: int, values_axis: int) -> tf.Tensor:
    """The last entries of `values_axis`, one for each position of `t` along `axis`.

    2-D values, (length, dim), become (length, 1, ..., dim), to broadcast along `axis`.
    """
    rows, length = size_of(values, values_axis), size_of(t, axis)
    is_static = isinstance(rows, int) and isinstance(length, int)
    if is_static and rows < length:
        raise ValueError(
            f"{name} of shape {values.shape} does not match the features to rotate, {t.shape}: it needs a "
            f"row for each of the {length} positions, got {rows}."
        )
    start = rows - length if is_static else tf.maximum(rows - length, 0)
    new_axes = [tf.newaxis] * (t.shape.rank - 2 - axis) if values.shape.rank == 2 else []
    return values[(*[slice(None)] * values_axis, slice(start, None), *new_axes)]
