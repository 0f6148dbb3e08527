"""Positions of tokens, where they are not simply 0, 1, 2, ..."""

import tensorflow as tf

WIDE_INTEGERS = (tf.int64, tf.uint32, tf.uint64)


def positions_from_padding(
    padding: tf.Tensor, length: int | tf.Tensor, *, start: int | tf.Tensor = 0
) -> tf.Tensor:
    """Position of each token in left-padded rows: the first real token of a row is at 0.

    Args:
        padding: (batch,) number of padding tokens at the left of each row.
        length: number of columns to describe.
        start: column of the first one, in a cached decode.

    Returns:
        (batch, length) int32; 0 for the padding itself.
    """
    columns = start + tf.range(length)
    return tf.maximum(columns[tf.newaxis, :] - tf.cast(padding, tf.int32)[:, tf.newaxis], 0)


def positions_from_mask(mask: tf.Tensor) -> tf.Tensor:
    """Position of each token among the real ones of its row, wherever the padding is.

    Args:
        mask: (..., length), true or 1 at real tokens.

    Returns:
        (..., length) int32; padding has the position of the last real token before it, or 0.
    """
    return tf.maximum(tf.cumsum(tf.cast(mask, tf.int32), axis=-1) - 1, 0)


def positions_from_segments(segment_ids: tf.Tensor) -> tf.Tensor:
    """Position of each token in its own document, where a row packs several.

    Attention must be kept inside a document as well; that is the model's mask.

    Args:
        segment_ids: (batch, length) integers; a document is a run of equal ids.

    Returns:
        (batch, length) int32, from 0 at the start of each document.
    """
    segment_ids = tf.convert_to_tensor(segment_ids)
    if segment_ids.shape.rank != 2:
        raise ValueError(f"segment_ids must be (batch, length), got shape {segment_ids.shape}.")
    batch, length = tf.unstack(tf.shape(segment_ids))
    starts = tf.cast(segment_ids[:, 1:] != segment_ids[:, :-1], tf.int32)
    runs = tf.concat([tf.zeros((batch, tf.minimum(length, 1)), tf.int32), tf.cumsum(starts, axis=1)], axis=1)
    runs += tf.range(batch)[:, tf.newaxis] * length
    columns = tf.broadcast_to(tf.range(length), (batch, length))
    first_columns = tf.math.unsorted_segment_min(columns, runs, batch * length)
    return columns - tf.gather(first_columns, runs)


def positions_from_cache(cached: int | tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
    """Positions of the tokens that follow those in a cache.

    Args:
        cached: number of tokens in the cache, or (batch,) of them.
        length: number of tokens that follow.

    Returns:
        (length,) int32, or (batch, length) where the numbers differ by row.
    """
    return tf.cast(cached, tf.int32)[..., tf.newaxis] + tf.range(length)


def sequence_axis(x: tf.Tensor, seq_dim: int, *, name: str = "seq_dim") -> int:
    """`seq_dim` counted from the left; raises ValueError if it is the feature axis or none."""
    rank = x.shape.rank
    axis = seq_dim + rank if seq_dim < 0 else seq_dim
    if not 0 <= axis < rank - 1:
        raise ValueError(f"{name} must be an axis before the last of a tensor of rank {rank}, got {seq_dim}.")
    return axis


def size_of(x: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Size of an axis, as a tensor only where it is not known."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def align_positions(positions: tf.Tensor, x: tf.Tensor, axis: int) -> tf.Tensor:
    """Positions with the axes of `x` but the last, of size 1 where they do not differ.

    Args:
        positions: (length,), (batch, length), or all axes of `x` but the last, where each is equal or 1.
        x: queries or keys; the first axis is the batch.
        axis: which axis of `x` is the sequence.

    Raises:
        ValueError: if the positions have another rank, or do not match `x`.
    """
    positions = tf.convert_to_tensor(positions)
    aligned = aligned_or_none(positions, x, axis)
    if aligned is None:
        raise ValueError(
            f"x of shape {x.shape} needs {x.shape[axis]} positions along its axis {axis}, got shape "
            f"{positions.shape}. Give (length,), (batch, length), or every axis of x but the last."
        )
    return aligned


def align_scale(scale: float | tf.Tensor, x: tf.Tensor, axis: int, dim: int) -> tf.Tensor:
    """A scale with the axes of `x`, of size 1 where it does not differ; float32.

    Args:
        scale: a number, or (length, dim), (batch, length, dim), or with all axes of `x`: for each shape of
            positions that `align_positions` takes, those of its features. The last axis may be 1.
        x: queries or keys; the first axis is the batch.
        axis: which axis of `x` is the sequence.
        dim: rotated features.

    Raises:
        ValueError: if the scale has another rank, or does not match `x`.
    """
    scale = tf.cast(scale, tf.float32)
    if scale.shape.rank == 0:
        return scale
    aligned = aligned_or_none(scale[..., 0], x, axis) if scale.shape[-1] in (1, dim) else None
    if aligned is None:
        raise ValueError(
            f"scale must match the {dim} rotated features and axis {axis}, the sequence, of x of shape "
            f"{x.shape}, got shape {scale.shape}. Give a number, (length, {dim}), (batch, length, {dim}), "
            "or every axis of x."
        )
    return tf.reshape(scale, tf.concat([tf.shape(aligned), [scale.shape[-1]]], axis=0))


def aligned_or_none(positions: tf.Tensor, x: tf.Tensor, axis: int) -> tf.Tensor | None:
    """What `align_positions` gives, or None where it raises."""
    rank, axes = positions.shape.rank, x.shape.rank - 1
    if rank == axes:
        aligned = positions
    elif rank == 1:
        aligned = positions[(..., *[tf.newaxis] * (axes - 1 - axis))]
    elif rank == 2 and axis > 0:
        between, after = [tf.newaxis] * (axis - 1), [tf.newaxis] * (axes - 1 - axis)
        aligned = positions[(slice(None), *between, slice(None), *after)]
    else:
        return None
    fits = all(
        have == want or None in (have, want) or (have == 1 and index != axis)
        for index, have, want in zip(
            range(axes - 1, -1, -1), reversed(aligned.shape), reversed(x.shape[:-1]), strict=False
        )
    )
    return aligned if fits else None


def shifted(positions: tf.Tensor, offset: float | tf.Tensor) -> tf.Tensor:
    """Positions plus one offset; integers as long as both are, of at least 32 bits."""
    positions, offset = tf.convert_to_tensor(positions), tf.convert_to_tensor(offset)
    if offset.shape.rank:
        raise ValueError(
            f"offset must be a scalar, got shape {offset.shape}. "
            "Where it differs by row, use positions=positions_from_cache(offset, length)."
        )
    if positions.dtype.is_integer:
        # Narrow integers would wrap: 250 + 10 is 4 in uint8.
        wide = positions.dtype in WIDE_INTEGERS or offset.dtype in WIDE_INTEGERS
        integer = tf.int64 if wide else tf.int32
        positions = tf.cast(positions, tf.float32 if offset.dtype.is_floating else integer)
    return positions + tf.cast(offset, positions.dtype)
