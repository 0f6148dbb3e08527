"""Rotation of feature pairs by position: angles, tables and the rotation itself.

The pair (a, b) at angle t becomes (a cos t - b sin t, a sin t + b cos t), or (a + ib) e^(it) in complex
numbers. The layout defines the pairs: (x[2i], x[2i + 1]) in `interleaved` (RoFormer, GPT-J),
(x[i], x[i + dim / 2]) in `half` (GPT-NeoX, Hugging Face Llama).

Shape words: length; head_dim, the features of a head; dim, the rotated ones; `...`, batch and heads.
"""

from collections.abc import Callable

import tensorflow as tf

from rope.private_tensorflow import in_control_flow_body, in_xla

LAYOUTS = ("interleaved", "half")
HALF_PRECISION = (tf.bfloat16, tf.float16)


def rotary_angles(positions: tf.Tensor, frequencies: tf.Tensor) -> tf.Tensor:
    """Angle of each rotated pair at each position.

    Always float32: bfloat16 cannot tell position 256 from 257.

    Args:
        positions: (..., length) positions in tokens; need not start at 0.
        frequencies: (dim / 2,) radians per token.

    Returns:
        (..., length, dim / 2) angles in radians, float32.

    Raises:
        TypeError: if `positions` are bfloat16 or float16.
    """
    positions = tf.convert_to_tensor(positions)
    check_positions_dtype(positions)
    frequencies = tf.cast(frequencies, tf.float32)
    return tf.cast(positions, tf.float32)[..., tf.newaxis] * frequencies  # (..., length, dim / 2)


def doubled(per_pair: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """Copies the value of each pair, such as its angle, to both features: (..., dim / 2) to (..., dim)."""
    check_layout(layout)
    if layout == "half":
        return tf.concat([per_pair, per_pair], axis=-1)
    return tf.repeat(per_pair, 2, axis=-1)


def rotary_table(angles: tf.Tensor) -> tf.Tensor:
    """Table for `rotate`: e^(i angle) of each pair, (..., length, dim / 2) complex64, from float32 radians.

    The product of two tables applies both rotations.
    """
    return tf.complex(tf.cos(angles), tf.sin(angles))


def scaled_table(table: tf.Tensor, scale: float | tf.Tensor) -> tf.Tensor:
    """Table that also multiplies the features by `scale`, a number or (..., length, dim / 2)."""
    return table * tf.cast(scale, tf.complex64)


def rotate(x: tf.Tensor, table: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """Rotates each pair of features by the table's angles.

    Multiplies in float32 and casts last, whatever the dtype of `x`. For the layout `half` and half-precision
    `x`, XLA fuses the operations in a graph with static shapes, outside loops and branches. A graph traced
    outside XLA cannot be called from a function with `jit_compile=True`; trace the rotation inside it.

    Args:
        x: (..., length, head_dim) queries or keys; only the first dim features are rotated.
        table: (..., length, dim / 2) from `rotary_table`, broadcasts against the pairs of `x`.
        layout: `interleaved` or `half`.

    Returns:
        The rotated tensor, with the shape and dtype of `x`.

    Raises:
        ValueError: if `layout` is unknown or the table has more pairs than `x`.
    """
    check_layout(layout)
    # A NumPy table may be complex128.
    x, table = tf.convert_to_tensor(x), tf.convert_to_tensor(table, dtype_hint=tf.complex64)
    head_dim, dim = x.shape[-1], 2 * table.shape[-1]
    if head_dim < dim:
        raise ValueError(f"x has {head_dim} features, fewer than the {dim} of its rotary table.")
    needs_fusion = layout == "half" or x.dtype in HALF_PRECISION
    if needs_fusion and _in_plain_graph() and _keeps_static_shape(x, table):
        return _rotate_by_xla(x, table, layout)
    return _rotate(x, table, layout)


def check_positions_dtype(positions: tf.Tensor) -> None:
    if positions.dtype in HALF_PRECISION:
        raise TypeError(f"positions must be integers or float32, got {positions.dtype.name}.")


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")


def _rotate(x: tf.Tensor, table: tf.Tensor, layout: str) -> tf.Tensor:
    dim = 2 * table.shape[-1]
    if x.shape[-1] > dim:
        return tf.concat([_rotate(x[..., :dim], table, layout), x[..., dim:]], axis=-1)
    pairs = _as_pairs(tf.cast(x, tf.float32), layout)  # (..., length, dim / 2) complex64
    return tf.cast(_as_features(pairs * table, layout), x.dtype)  # (..., length, dim)


def _in_plain_graph() -> bool:
    """Whether the graph being traced is neither for XLA nor the body of a loop or a branch.

    In such a body TensorFlow loses the tensors that a custom gradient captures: it raises, or treats the
    table as a constant.
    """
    return not tf.executing_eagerly() and not in_xla() and not in_control_flow_body()


def _keeps_static_shape(x: tf.Tensor, table: tf.Tensor) -> bool:
    """Whether all sizes are known and the result has the shape of `x`."""
    are_known = x.shape.is_fully_defined() and table.shape.is_fully_defined()
    return are_known and tf.broadcast_static_shape(x.shape[:-1], table.shape[:-1]) == x.shape[:-1]


_compiled_rotate = tf.function(_rotate, jit_compile=True, autograph=False)


def _rotate_by_xla(x: tf.Tensor, table: tf.Tensor, layout: str) -> tf.Tensor:
    @tf.custom_gradient
    def rotate_with_gradients(x: tf.Tensor, table: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        # d_x is the rotation of d_rotated by the opposite angles: its product with the conjugate table.
        def gradients(d_rotated: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:  # pruned from the graph if d_table is unused
                tape.watch(table)
                rotated = _rotate(x, table, layout)
            d_table = tape.gradient(rotated, table, output_gradients=d_rotated)
            return rotate(d_rotated, tf.math.conj(table), layout=layout), d_table

        return _compiled_rotate(x, table, layout), gradients

    return rotate_with_gradients(x, table)


def _as_pairs(features: tf.Tensor, layout: str) -> tf.Tensor:
    """(..., dim) float32 as (..., dim / 2) complex64."""
    shape, dim = tf.shape(features), features.shape[-1]

    @tf.custom_gradient
    def convert(features: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        if layout == "half":
            pairs = tf.complex(*tf.split(features, 2, axis=-1))  # (..., dim / 2)
        else:
            pairs = tf.reshape(features, tf.concat([shape[:-1], [dim // 2, 2]], axis=0))  # (..., dim / 2, 2)
            # A bitcast copies nothing, but XLA does not support it for complex numbers.
            pairs = tf.complex(*tf.unstack(pairs, axis=-1)) if in_xla() else tf.bitcast(pairs, tf.complex64)
        return pairs, lambda gradient: _as_features(gradient, layout)

    return convert(features)


def _as_features(pairs: tf.Tensor, layout: str) -> tf.Tensor:
    """(..., dim / 2) complex64 as (..., dim) float32."""
    shape, dim = tf.shape(pairs), 2 * pairs.shape[-1]

    @tf.custom_gradient
    def convert(pairs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        if layout == "half":
            features = tf.concat([tf.math.real(pairs), tf.math.imag(pairs)], axis=-1)  # (..., dim)
        elif in_xla():
            features = tf.stack([tf.math.real(pairs), tf.math.imag(pairs)], axis=-1)  # (..., dim / 2, 2)
        else:
            features = tf.bitcast(pairs, tf.float32)  # (..., dim / 2, 2)
        features = tf.reshape(features, tf.concat([shape[:-1], [dim]], axis=0))
        return features, lambda gradient: _as_pairs(gradient, layout)

    return convert(pairs)
