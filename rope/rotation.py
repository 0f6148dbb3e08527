"""Rotation of feature pairs by position: angles, cosines and sines, the scales of xPos, the rotation itself.

The pair (a, b) at angle t becomes (a cos t - b sin t, a sin t + b cos t). The layout defines the pairs:
(x[2i], x[2i + 1]) in `interleaved` (RoFormer, GPT-J), (x[i], x[i + dim / 2]) in `half` (GPT-NeoX, Hugging
Face Llama).

Shape words: length; head_dim, the features of a head; dim, the rotated ones; `...`, batch and heads.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from rope.positions import broadcasts, check_positions
from rope.private_tensorflow import in_control_flow_body, in_plain_operations, in_xla

LAYOUTS = ("interleaved", "half")


def rotary_angles(positions: tf.Tensor, frequencies: tf.Tensor) -> tf.Tensor:
    """(..., length, dim / 2) angles in radians of the rotated pairs at (..., length) positions.

    Always float32: bfloat16 cannot tell position 256 from 257. `frequencies` are (dim / 2,) radians per
    token. Raises TypeError if `positions` are neither integers nor float32.
    """
    positions = tf.cast(check_positions(positions), tf.float32)
    # LiteRT cannot convert [..., tf.newaxis] of a dynamic shape.
    return tf.expand_dims(positions, -1) * tf.cast(frequencies, tf.float32)  # (..., length, dim / 2)


def doubled(per_pair: tf.Tensor, *, layout: str = "interleaved") -> tf.Tensor:
    """Copies the value of each pair, such as its angle, to both features: (..., dim / 2) to (..., dim)."""
    check_layout(layout)
    if layout == "half":
        return tf.concat([per_pair, per_pair], axis=-1)
    return tf.repeat(per_pair, 2, axis=-1)


def compute_cos_sin(angles: tf.Tensor, scale: float = 1.0) -> tf.Tensor:
    """(..., length, dim / 2, 2) cosines and sines of (..., length, dim / 2) angles, times `scale`."""
    return tf.stack([tf.cos(angles), tf.sin(angles)], axis=-1) * scale


def compose(a: tf.Tensor, b: tf.Tensor, *, seq_before_head_dim: bool = False) -> tf.Tensor:
    """`cos_sin` of two rotations one after the other: the angles are added, the scales multiplied.

    Arguments as for `rotate`: both with the sequence axis alone, both with every axis, or one of each.
    """
    a, b = as_cos_sin(a), as_cos_sin(b)
    ranks = {a.shape.rank, b.shape.rank}
    matches = a.shape.is_compatible_with(b.shape) if ranks == {3} else a.shape[-2] == b.shape[-2]
    if not matches or (len(ranks) > 1 and 3 not in ranks):
        rule = "the sequence axis alone or every axis, and the same pairs and length"
        raise ValueError(f"two cos_sin must have {rule}, got {a.shape} and {b.shape}.")
    if len(ranks) > 1 and seq_before_head_dim:
        a, b = (x[:, tf.newaxis] if x.shape.rank == 3 else x for x in (a, b))  # (length, 1, dim / 2, 2)
    (cos_a, sin_a), (cos_b, sin_b) = tf.unstack(a, axis=-1), tf.unstack(b, axis=-1)
    return tf.stack([cos_a * cos_b - sin_a * sin_b, sin_a * cos_b + cos_a * sin_b], axis=-1)


def rotate(
    x: tf.Tensor, cos_sin: tf.Tensor, *, layout: str = "interleaved", seq_before_head_dim: bool = False
) -> tf.Tensor:
    """Rotates each pair of features.

    Multiplies in float32 and casts last, whatever the dtype of `x`. In a graph with static shapes, outside
    loops and branches, XLA compiles the rotation to one loop.

    Args:
        x: (..., length, head_dim) queries or keys, of which the first dim features are rotated. The result
            has its shape and dtype.
        cos_sin: from `compute_cos_sin`: (length, dim / 2, 2), or every axis of `x` before its features, each
            equal or 1, plus (dim / 2, 2).
        layout: `interleaved` or `half`.
        seq_before_head_dim: the sequence axis of `x` is -3, as in (batch, length, heads, head_dim), not -2.

    Raises:
        TypeError: if `x` is not floating-point, or `cos_sin` not float32.
        ValueError: if `layout` is unknown, or `cos_sin` does not match `x`.
    """
    check_layout(layout)
    x = as_features(x)
    cos_sin = _match(as_cos_sin(cos_sin), x, seq_before_head_dim)
    is_static = x.shape.is_fully_defined() and cos_sin.shape.is_fully_defined()
    # In the body of a loop or branch, TensorFlow loses the tensors that a custom gradient captures.
    if tf.executing_eagerly() or not is_static or in_plain_operations() or in_xla() or in_control_flow_body():
        return _rotate(x, cos_sin, layout)
    return _rotate_by_xla(x, cos_sin, layout)


def xpos_scales(
    positions: tf.Tensor, dim: int, *, scale_base: float, center: float, interpolate_factor: float = 1.0
) -> tf.Tensor:
    """(..., length, dim / 2) scales of queries in xPos (Sun et al. 2022, arXiv 2212.10554): zeta^distance.

    Keys have the inverse, so that the score of each pair decays by zeta^((m - n) / scale_base), where zeta
    of pair i is (2i / dim + 0.4) / 1.4. The center
    cancels if it is the same for queries and keys: a constant of the embedding, not the middle of each call.
    For keys after their query the factor exceeds 1, so xPos is for causal attention.

    `positions` are (..., length) integers or float32. A score decays by zeta over `scale_base` tokens;
    `interpolate_factor` divides the distances, as it divides the positions of the rotation.
    """
    positions = tf.cast(check_positions(positions), tf.float32)
    powers = (positions - center) / (interpolate_factor * scale_base)  # (..., length)
    logs = np.float32(np.log((np.arange(0, dim, 2) / dim + 0.4) / 1.4))  # (dim / 2,), of zeta
    return tf.exp(tf.expand_dims(powers, -1) * logs)  # (..., length, dim / 2)


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")


def as_features(x: tf.Tensor) -> tf.Tensor:
    """`x` as a tensor; raises TypeError or ValueError unless it is floats of a known number of features."""
    if isinstance(x, keras.KerasTensor):
        raise TypeError(
            "a method of a layer was called on a symbolic KerasTensor: Keras would not track the layer's "
            "weights. Call a RoPE layer, or rotate inside the call of a layer of your own."
        )
    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise TypeError(f"x must be floating-point queries or keys, got {x.dtype.name}.")
    if x.shape.rank is None or x.shape.rank < 2 or x.shape[-1] is None:
        raise ValueError(f"x must have a known rank and number of features, got shape {x.shape}.")
    return x


def as_cos_sin(cos_sin: tf.Tensor) -> tf.Tensor:
    """`cos_sin` as float32; raises TypeError or ValueError unless it is (..., length, dim / 2, 2) floats."""
    cos_sin = tf.convert_to_tensor(cos_sin, dtype_hint=tf.float32)
    if cos_sin.dtype not in (tf.float32, tf.float64):
        name = cos_sin.dtype.name
        raise TypeError(f"cos_sin must be float32, got {name}. A layer that takes it needs autocast=False.")
    if (cos_sin.shape.rank or 0) < 3 or cos_sin.shape[-1] != 2 or cos_sin.shape[-2] is None:
        raise ValueError(f"cos_sin must be (..., length, dim / 2, 2), got shape {cos_sin.shape}.")
    return tf.cast(cos_sin, tf.float32)


def _match(cos_sin: tf.Tensor, x: tf.Tensor, seq_before_head_dim: bool) -> tf.Tensor:
    """`cos_sin` that can be broadcast to the pairs of `x`; raises ValueError if its axes do not match."""
    head_dim, dim = x.shape[-1], 2 * cos_sin.shape[-2]
    if head_dim < dim:
        raise ValueError(f"x has {head_dim} features, fewer than the {dim} to be rotated.")
    axis = x.shape.rank - (3 if seq_before_head_dim else 2)
    sizes, expected = cos_sin.shape[:-2], x.shape[:-1]
    if sizes.rank == 1:
        matches = axis >= 0 and sizes.is_compatible_with(expected[axis : axis + 1])
    else:
        matches = sizes.rank == expected.rank and broadcasts(sizes, expected)
    if not matches:
        raise ValueError(
            f"cos_sin of shape {cos_sin.shape} does not match x of shape {x.shape} with its sequence at axis "
            f"{axis}. Give (length, {dim // 2}, 2), or the axes of x but its last plus ({dim // 2}, 2)."
        )
    if sizes.rank == 1 and seq_before_head_dim:
        return cos_sin[(*[tf.newaxis] * axis, slice(None), tf.newaxis)]  # (1, length, 1, dim / 2, 2)
    return cos_sin


def _rotate(x: tf.Tensor, cos_sin: tf.Tensor, layout: str) -> tf.Tensor:
    pairs = cos_sin.shape[-2]
    if x.shape[-1] > 2 * pairs:
        rotated = _rotate(x[..., : 2 * pairs], cos_sin, layout)
        return tf.concat([rotated, x[..., 2 * pairs :]], axis=-1)  # (..., length, head_dim)
    shape, axis = ((pairs, 2), -1) if layout == "interleaved" else ((2, pairs), -2)
    x_pairs = tf.reshape(x, tf.concat([tf.shape(x)[:-1], shape], axis=0))  # (..., length, *shape)
    x_pairs = tf.cast(x_pairs, tf.float32)
    cos, sin = tf.unstack(cos_sin, axis=-1)  # (..., length, dim / 2) each
    if in_xla():
        a, b = tf.unstack(x_pairs, axis=axis)  # (..., length, dim / 2) each
        rotated = tf.stack([a * cos - b * sin, a * sin + b * cos], axis=axis)  # (..., length, *shape)
    else:  # the same; without fusion, slicing and stacking single features takes three times as long
        cos, sin = tf.stack([cos, cos], axis=axis), tf.stack([-sin, sin], axis=axis)
        rotated = x_pairs * cos + tf.reverse(x_pairs, [axis]) * sin  # (..., length, *shape)
    return tf.cast(tf.reshape(rotated, tf.shape(x)), x.dtype)  # (..., length, dim)


_compiled_rotate = tf.function(_rotate, jit_compile=True, autograph=False)


def _rotate_by_xla(x: tf.Tensor, cos_sin: tf.Tensor, layout: str) -> tf.Tensor:
    @tf.custom_gradient
    def rotate_with_gradients(x: tf.Tensor, cos_sin: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        # d_x is the rotation of d_rotated by the opposite angles.
        def gradients(d_rotated: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:  # pruned from the graph if d_cos_sin is unused
                tape.watch(cos_sin)
                rotated = _rotate(x, cos_sin, layout)
            d_cos_sin = tape.gradient(rotated, cos_sin, output_gradients=d_rotated)
            return rotate(d_rotated, cos_sin * [1.0, -1.0], layout=layout), d_cos_sin

        return _compiled_rotate(x, cos_sin, layout), gradients

    return rotate_with_gradients(x, cos_sin)
