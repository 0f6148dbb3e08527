"""Positions of tokens, where they are not simply 0, 1, 2, ..."""

import tensorflow as tf


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
