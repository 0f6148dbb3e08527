"""Rotation of feature pairs by position: angles, tables and the rotation itself.

A pair (a, b) at angle t becomes (a cos t - b sin t, a sin t + b cos t): the complex number a + ib, times
e^(it). Two layouts say which features are a pair: `interleaved` takes (x[2i], x[2i + 1]) (RoFormer, GPT-J),
`half` takes (x[i], x[i + dim / 2]) (GPT-NeoX, Hugging Face Llama).
"""

import tensorflow as tf

from rope.private_tensorflow import in_control_flow_body, in_xla

LAYOUTS = ("interleaved", "half")
HALF_PRECISION = (tf.bfloat16, tf.float16)


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


def rotary_table(angles: tf.Tensor) -> tf.Tensor:
    """Table for `rotate`: e^(i angle) of each pair.

    Tables compose by multiplication: two rotations one after the other, or a rotation and a scale.

    Args:
        angles: (..., length, dim / 2) radians, float32.

    Returns:
        (..., length, dim / 2) complex64.
    """
    return tf.complex(tf.cos(angles), tf.sin(angles))


def scaled_table(table: tf.Tensor, scale: float | tf.Tensor) -> tf.Tensor:
    """A table that also multiplies the features, by a number or by (..., length, dim / 2) of them."""
    return table * tf.cast(scale, tf.complex64)


def rotate(x: tf.Tensor, table: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """Rotates each pair of features by the table's angles.

    Multiplies in float32 and casts last, whatever the dtype of `x`. In a graph that knows the shapes, but in
    no loop or branch, XLA compiles what would be a pass over memory for each operation: the layout `half`,
    and bfloat16 or float16.
    What is traced outside of XLA cannot be called from a function with `jit_compile=True`; trace it there.

    Args:
        x: (..., length, head_dim) queries or keys.
        table: from `rotary_table`; (..., length, dim / 2), broadcasts against the pairs of `x`. When it has
            fewer pairs than `x`, the first dim features are rotated and the others pass through.
        layout: `interleaved` or `half`.

    Returns:
        The rotated tensor, with the shape and dtype of `x`.

    Raises:
        ValueError: if `layout` is unknown or the table has more pairs than `x`.
    """
    check_layout(layout)
    # A table made in NumPy is complex128.
    x, table = tf.convert_to_tensor(x), tf.convert_to_tensor(table, dtype_hint=tf.complex64)
    head_dim, dim = x.shape[-1], 2 * table.shape[-1]
    if head_dim < dim:
        raise ValueError(f"x has {head_dim} features, fewer than the {dim} of its rotary table.")
    in_passes = layout == "half" or x.dtype in HALF_PRECISION
    if in_passes and _in_plain_graph() and _is_known_to_keep_shape(x, table):
        return _rotated_by_xla(x, table, layout)
    return _rotated(x, table, layout)


def check_positions_dtype(positions: tf.Tensor) -> None:
    if positions.dtype in HALF_PRECISION:
        raise TypeError(f"positions must be integers or float32, got {positions.dtype.name}.")


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")


def _rotated(x: tf.Tensor, table: tf.Tensor, layout: str) -> tf.Tensor:
    dim = 2 * table.shape[-1]
    if x.shape[-1] > dim:
        return tf.concat([_rotated(x[..., :dim], table, layout), x[..., dim:]], axis=-1)
    pairs = _as_pairs(tf.cast(x, tf.float32), layout)
    return tf.cast(_as_features(pairs * table, layout), x.dtype)


def _in_plain_graph() -> bool:
    """Whether the graph being traced is neither for XLA nor the body of a loop or a branch.

    In such a body TensorFlow loses the tensors that a custom gradient captures: it raises, or treats the
    table as a constant.
    """
    return not tf.executing_eagerly() and not in_xla() and not in_control_flow_body()


def _is_known_to_keep_shape(x: tf.Tensor, table: tf.Tensor) -> bool:
    """Whether all sizes are known, and the table has none that `x` would be repeated to."""
    are_known = x.shape.is_fully_defined() and table.shape.is_fully_defined()
    return are_known and tf.broadcast_static_shape(x.shape[:-1], table.shape[:-1]) == x.shape[:-1]


_compiled = tf.function(_rotated, jit_compile=True, autograph=False)


def _rotated_by_xla(x: tf.Tensor, table: tf.Tensor, layout: str) -> tf.Tensor:
    @tf.custom_gradient
    def rotated(x, table):
        def gradients(upstream):
            with tf.GradientTape() as tape:  # dropped from the graph where nothing asks for it
                tape.watch(table)
                again = _rotated(x, table, layout)
            of_table = tape.gradient(again, table, output_gradients=upstream)
            return rotate(upstream, tf.math.conj(table), layout=layout), of_table

        return _compiled(x, table, layout), gradients

    return rotated(x, table)


def _as_pairs(features: tf.Tensor, layout: str) -> tf.Tensor:
    """(..., dim) float32 as (..., dim / 2) complex64."""
    shape, dim = tf.shape(features), features.shape[-1]

    @tf.custom_gradient
    def convert(features):
        if layout == "half":
            pairs = tf.complex(*tf.split(features, 2, axis=-1))
        else:
            pairs = tf.reshape(features, tf.concat([shape[:-1], [dim // 2, 2]], axis=0))
            # A bitcast copies nothing, but XLA has none to complex numbers.
            pairs = tf.complex(*tf.unstack(pairs, axis=-1)) if in_xla() else tf.bitcast(pairs, tf.complex64)
        return pairs, lambda gradient: _as_features(gradient, layout)

    return convert(features)


def _as_features(pairs: tf.Tensor, layout: str) -> tf.Tensor:
    """The inverse of `_as_pairs`."""
    shape, dim = tf.shape(pairs), 2 * pairs.shape[-1]

    @tf.custom_gradient
    def convert(pairs):
        if layout == "half":
            features = tf.concat([tf.math.real(pairs), tf.math.imag(pairs)], axis=-1)
        elif in_xla():
            features = tf.stack([tf.math.real(pairs), tf.math.imag(pairs)], axis=-1)
        else:
            features = tf.bitcast(pairs, tf.float32)
        features = tf.reshape(features, tf.concat([shape[:-1], [dim]], axis=0))
        return features, lambda gradient: _as_pairs(gradient, layout)

    return convert(pairs)
