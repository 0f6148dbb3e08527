"""Positions of tokens in padded, packed and cached sequences and of cells in a grid, and their alignment.

Shape words: batch, heads, length, head_dim; cells, all positions of a grid; axes, the coordinates of each.
"""

from collections.abc import Sequence

import tensorflow as tf

from rope.private_tensorflow import in_plain_operations


def positions_from_padding(padding: tf.Tensor, length: tf.Tensor, *, start: tf.Tensor = 0) -> tf.Tensor:
    """(batch, length) int32 positions in left-padded rows: 0 for the padding and the first real token.

    `padding` is the (batch,) number of padding tokens, `start` the first of `length` columns.
    """
    columns = start + tf.range(length)  # (length,)
    return tf.maximum(columns[tf.newaxis, :] - tf.cast(padding, tf.int32)[:, tf.newaxis], 0)


def positions_from_mask(mask: tf.Tensor) -> tf.Tensor:
    """(..., length) int32 positions among the real tokens of each row, where the mask is true or 1.

    Padding may be anywhere; it has the position of the last real token before it, or 0.
    """
    return tf.maximum(tf.cumsum(tf.cast(mask, tf.int32), axis=-1) - 1, 0)


def positions_from_segments(segment_ids: tf.Tensor) -> tf.Tensor:
    """(batch, length) int32 positions in rows that pack several documents; each document starts at 0.

    A document is a run of equal integers in `segment_ids`, (batch, length). The attention mask must separate
    the documents as well.
    """
    segment_ids = tf.convert_to_tensor(segment_ids)
    if segment_ids.shape.rank != 2:
        raise ValueError(f"segment_ids must be (batch, length), got shape {segment_ids.shape}.")
    starts = tf.cast(segment_ids[:, 1:] != segment_ids[:, :-1], tf.int32)  # (batch, length - 1)
    runs = tf.pad(tf.cumsum(starts, axis=1), ((0, 0), (1, 0)))  # (batch, length), ascending numbers
    if in_plain_operations():  # ONNX has no binary search
        same = tf.expand_dims(runs, 2) == tf.expand_dims(runs, 1)  # (batch, length, length)
        first_columns = tf.argmax(tf.cast(same, tf.int32), axis=2, output_type=tf.int32)
    else:
        first_columns = tf.searchsorted(runs, runs)
    return tf.range(tf.shape(runs)[1]) - first_columns


def grid_positions(
    *sizes: int | tf.Tensor,
    coordinates: str = "cells",
    offsets: Sequence[float] | None = None,
    axis_order: Sequence[int] | None = None,
) -> tf.Tensor:
    """(cells, axes) float32 coordinates of the cells of a flattened grid, the last axis fastest.

    Args:
        sizes: size of each axis: rows and columns of an image.
        coordinates: `cells` (0, 1, 2, ...) or `unit` (equally spaced in [-1, 1]).
        offsets: added to the coordinates of each axis.
        axis_order: axis of each coordinate; when not given (0, 1, ...): rows, then columns, in images.
            RoPE-ViT has columns first, (1, 0).
    """
    offsets = [0] * len(sizes) if offsets is None else offsets
    order = range(len(sizes)) if axis_order is None else axis_order
    if not sizes or len(offsets) != len(sizes):
        raise ValueError(f"a grid needs one offset for each axis, got {len(offsets)} for sizes {sizes}.")
    if sorted(order) != list(range(len(sizes))):
        raise ValueError(f"axis_order must name each of the {len(sizes)} axes once, got {order}.")
    if coordinates == "cells":
        along_axes = [tf.cast(tf.range(size), tf.float32) for size in sizes]
    elif coordinates == "unit":
        along_axes = [tf.linspace(-1.0, 1.0, size) for size in sizes]
    else:
        raise ValueError(f"coordinates must be one of cells, unit; got {coordinates!r}.")
    grid = tf.meshgrid(*along_axes, indexing="ij")
    columns = [tf.reshape(grid[axis], [-1]) + tf.cast(offsets[axis], tf.float32) for axis in order]
    return tf.stack(columns, axis=-1)  # (cells, axes)


def sequence_axis(x: tf.Tensor, seq_dim: int) -> int:
    """`seq_dim` counted from the left; raises ValueError unless it is an axis before the features."""
    rank = x.shape.rank
    axis = seq_dim + rank if seq_dim < 0 else seq_dim
    if not 0 <= axis < rank - 1:
        raise ValueError(f"seq_dim must be an axis before the last, got {seq_dim} for rank {rank}.")
    return axis


def size_of(x: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Size of an axis: an integer, or a tensor if the static shape does not contain it."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]


def broadcasts(shape: tf.TensorShape, target: tf.TensorShape) -> bool:
    """Whether a tensor of `shape` can be broadcast to `target`, as far as both are known."""
    try:
        return target.is_compatible_with(tf.broadcast_static_shape(shape, target))
    except ValueError:
        return False


def align_positions(positions: tf.Tensor, x: tf.Tensor, axis: int, *, name: str = "positions") -> tf.Tensor:
    """Positions with every axis of `x` but the last, of size 1 where they do not vary.

    They are (length,), (batch, length), or have these axes already. `axis` is the sequence axis of `x`;
    error messages name the positions `name`.
    """
    aligned = positions = tf.convert_to_tensor(positions)
    axes, rank = x.shape.rank - 1, positions.shape.rank
    before, after = [tf.newaxis] * axis, [tf.newaxis] * (axes - 1 - axis)
    if rank == 1 and axes > 1:
        aligned = positions[(*before, slice(None), *after)]
    elif rank == 2 and axes > 2 and axis > 0:
        aligned = positions[(slice(None), *before[1:], slice(None), *after)]
    has_length = aligned.shape[axis : axis + 1].is_compatible_with(x.shape[axis : axis + 1])
    if aligned.shape.rank != axes or not has_length or not broadcasts(aligned.shape, x.shape[:-1]):
        raise ValueError(
            f"x of shape {x.shape} needs {x.shape[axis]} {name} along its axis {axis}, got shape "
            f"{positions.shape}. Give (length,), (batch, length), or every axis of x but the last."
        )
    return aligned


def check_positions(positions: tf.Tensor) -> tf.Tensor:
    """Positions as a tensor; raises TypeError unless they are integers, float32 or float64."""
    positions = tf.convert_to_tensor(positions)
    if not positions.dtype.is_integer and positions.dtype not in (tf.float32, tf.float64):
        raise TypeError(f"positions must be integers or float32, got {positions.dtype.name}.")
    return positions


def shifted(positions: tf.Tensor, offset: float | tf.Tensor) -> tf.Tensor:
    """Positions plus one offset: int64 if both are integers, otherwise float32."""
    positions, offset = check_positions(positions), check_positions(offset)
    if offset.shape.rank:
        raise ValueError(f"offset must be a scalar, got shape {offset.shape}. Give positions for each row.")
    # Narrow integers would overflow: 250 + 10 is 4 in uint8.
    dtype = tf.int64 if positions.dtype.is_integer and offset.dtype.is_integer else tf.float32
    return tf.cast(positions, dtype) + tf.cast(offset, dtype)
