"""Rotation by tables of angles, under the names and with the arguments of rotary-embedding-torch.

A table of angles, `freqs` there, is (..., length, dim): the angle of each pair, doubled to one of each
feature. `rope.rotation` is the faster route for a model, which shares cosines and sines between its layers.
"""

from collections.abc import Sequence

import tensorflow as tf

from rope.positions import sequence_axis, size_of
from rope.rotation import HALF_PRECISION, check_layout, doubled


def rotate_half(x: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """A quarter turn of each pair of features, (a, b) to (-b, a); (..., dim)."""
    check_layout(layout)
    x = tf.convert_to_tensor(x)
    check_pairs("x", x)
    if layout == "half":
        first, second = tf.split(x, 2, axis=-1)
        return tf.concat([-second, first], axis=-1)
    return tf.reshape(tf.stack([-x[..., 1::2], x[..., ::2]], axis=-1), tf.shape(x))


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
    """Rotates features [start_index, start_index + dim) of `t`; the others pass through.

    Multiplies in float32 and casts last, whatever the dtype of `t`.

    Args:
        freqs: (..., length, dim) table of angles, as `RotaryEmbedding(...)(positions)` gives it; broadcasts
            against `t`. A 2-D table belongs to axis `seq_dim` of `t`.
        t: (..., length, features) queries or keys.
        start_index: first feature to rotate.
        scale: multiplies the rotated features; a number, or (length, dim), aligned like a 2-D table.
        seq_dim: axis of `t` that is the sequence: -2, or -3 for (batch, length, heads, features).
        freqs_seq_dim: axis of `freqs` that is the sequence. If given, or if `freqs` is 2-D, only the last
            `length` rows of `freqs` are read, and there must be as many: queries are aligned to the right of
            their keys.
        layout: which features are a pair, `interleaved` or `half`.

    Returns:
        The rotated tensor, with the shape and dtype of `t`.

    Raises:
        TypeError: if `freqs` are bfloat16 or float16, which hold no angles.
        ValueError: if the rotated features are not all in `t`, or the rows of `freqs` do not match `t`.
    """
    freqs, t = tf.convert_to_tensor(freqs), tf.convert_to_tensor(t)
    if freqs.dtype in HALF_PRECISION:
        raise TypeError(
            f"angles must be float32, got {freqs.dtype.name}. A Keras layer that is given them under a "
            "mixed policy needs autocast=False."
        )
    if freqs.shape.rank < 2:
        raise ValueError(
            f"angles must be (..., length, dim), got shape {freqs.shape}. "
            "For one position, add an axis of 1 before the last."
        )
    check_pairs("the table of angles", freqs)
    dim, features = freqs.shape[-1], t.shape[-1]
    if start_index < 0 or start_index + dim > features:
        raise ValueError(
            f"features [{start_index}, {start_index + dim}) are to be rotated, but t has {features}. "
            "Lower start_index or the dim of the angles."
        )
    axis = sequence_axis(t, seq_dim)
    freqs, scale = tf.cast(freqs, tf.float32), tf.convert_to_tensor(scale, tf.float32)
    if freqs_seq_dim is not None:
        freqs_axis = sequence_axis(freqs, freqs_seq_dim, name="freqs_seq_dim")
        freqs = last_rows("table", freqs, t, axis, freqs_axis)
    elif freqs.shape.rank == 2:
        freqs = last_rows("table", freqs, t, axis, 0)
    if freqs.shape.rank == 2:
        freqs = beside_sequence(freqs, t, axis)
    if scale.shape.rank == 2:
        scale = beside_sequence(last_rows("scale", scale, t, axis, 0), t, axis)
    rotated = tf.cast(t[..., start_index : start_index + dim], tf.float32)
    check_broadcast(freqs, rotated)
    rotated = (rotated * tf.cos(freqs) + rotate_half(rotated, layout=layout) * tf.sin(freqs)) * scale
    pieces = [t[..., :start_index], tf.cast(rotated, t.dtype), t[..., start_index + dim :]]
    return tf.concat([piece for piece in pieces if piece.shape[-1]], axis=-1)


def apply_learned_rotations(
    rotations: tf.Tensor,
    t: tf.Tensor,
    start_index: int = 0,
    freq_ranges: Sequence[float] | tf.Tensor | None = None,
    *,
    layout: str = "interleaved",
) -> tf.Tensor:
    """Rotates the features of `t` from `start_index` on by angles that a model has predicted.

    Args:
        rotations: (..., length, pairs) angle of each pair, in radians, any float dtype; one row for each
            token.
        t: (..., length, features), with at least 2 * pairs features from `start_index` on.
        start_index: first feature to rotate.
        freq_ranges: (ranges,) factors; then each rotation turns `ranges` consecutive pairs, by itself times
            each factor.
        layout: which features are a pair, `interleaved` or `half`.

    Returns:
        The rotated tensor, with the shape and dtype of `t`.

    Raises:
        ValueError: if there are more rotations than pairs of features, or more or fewer rows than tokens.
    """
    rotations, t = tf.cast(rotations, tf.float32), tf.convert_to_tensor(t)
    # A 2-D table may have rows for keys before the queries; rotations belong to their tokens.
    if rotations.shape.rank == 2 and not rotations.shape[:1].is_compatible_with(t.shape[-2:-1]):
        raise ValueError(
            f"rotations must have a row for each of the {t.shape[-2]} tokens of t, "
            f"got {rotations.shape[0]}. Pass those of these tokens alone."
        )
    if freq_ranges is not None:
        freq_ranges = tf.reshape(tf.cast(freq_ranges, tf.float32), [-1])
        ranged = rotations[..., tf.newaxis] * freq_ranges
        pairs = rotations.shape[-1] * freq_ranges.shape[-1]
        rotations = tf.reshape(ranged, tf.concat([tf.shape(rotations)[:-1], [pairs]], axis=0))
    return apply_rotary_emb(doubled(rotations, layout=layout), t, start_index, layout=layout)


def broadcat(tensors: Sequence[tf.Tensor], dim: int = -1) -> tf.Tensor:
    """Concatenates along `dim`, after broadcasting the other axes that are 1.

    Raises:
        ValueError: if the tensors differ in rank, or in another axis that is not 1.
    """
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    ranks = {tensor.shape.rank for tensor in tensors}
    if len(ranks) != 1:
        raise ValueError(f"broadcat needs tensors of one rank, got ranks {sorted(ranks)}.")
    (rank,) = ranks
    if not -rank <= dim < rank:
        raise ValueError(f"broadcat got dim {dim}, tensors of rank {rank} have -{rank} to {rank - 1}.")
    dim %= rank
    static, shape = tf.TensorShape([1] * rank), tf.ones(rank, tf.int32)
    for tensor in tensors:
        others = [1 if axis == dim else size for axis, size in enumerate(tensor.shape)]
        static = tf.broadcast_static_shape(static, tf.TensorShape(others))
        shape = tf.broadcast_dynamic_shape(shape, with_size(tf.shape(tensor), dim, 1))
    return tf.concat(
        [tf.broadcast_to(tensor, with_size(shape, dim, tf.shape(tensor)[dim])) for tensor in tensors],
        axis=dim,
    )


def with_size(shape: tf.Tensor, axis: int, size: int | tf.Tensor) -> tf.Tensor:
    """`shape` with another size of one axis."""
    return tf.concat([shape[:axis], [size], shape[axis + 1 :]], axis=0)


def check_pairs(name: str, x: tf.Tensor) -> None:
    if x.shape.rank == 0 or (x.shape[-1] is not None and x.shape[-1] % 2):
        raise ValueError(f"the last axis of {name} must be even to form rotation pairs, got shape {x.shape}.")


def last_rows(name: str, freqs: tf.Tensor, t: tf.Tensor, axis: int, freqs_axis: int) -> tf.Tensor:
    """As many of the last entries of `freqs_axis` as `t` has on `axis`."""
    rows, length = size_of(freqs, freqs_axis), size_of(t, axis)
    start = None
    if isinstance(rows, int) and isinstance(length, int):
        if rows < length:
            raise ValueError(
                f"{name} of shape {freqs.shape} does not match the features to rotate, {t.shape}: "
                f"it needs a row for each of the {length} positions, got {rows}. "
                "seq_dim says which axis is the sequence."
            )
        start = rows - length
    index = [slice(None)] * freqs.shape.rank
    index[freqs_axis] = slice(tf.maximum(rows - length, 0) if start is None else start, None)
    return freqs[tuple(index)]


def beside_sequence(rows: tf.Tensor, t: tf.Tensor, axis: int) -> tf.Tensor:
    """(length, dim), with axes of 1 so that `length` falls on `axis` of `t`."""
    for _ in range(t.shape.rank - 2 - axis):
        rows = tf.expand_dims(rows, -2)
    return rows


def check_broadcast(freqs: tf.Tensor, x: tf.Tensor) -> None:
    """Raises ValueError if `freqs` cannot be broadcast to the shape of `x`, as far as it is known."""
    rank = x.shape.rank
    fits = freqs.shape.rank <= rank and all(
        of_freqs in (1, None) or of_x is None or of_freqs == of_x
        for of_freqs, of_x in zip(reversed(freqs.shape), reversed(x.shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"angles of shape {freqs.shape} do not match the features to rotate, {x.shape}. "
            "Each axis must be equal or 1; seq_dim says which axis is the sequence."
        )
