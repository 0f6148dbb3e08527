"""The rotary embedding as a Keras layer without state, other than learned frequencies.

Shape words: batch, heads, length; head_dim, the features of a head; dim, the rotated ones; `...`, batch and
heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rope.frequencies import DEFAULTS, resolve
from rope.huggingface import rotary_arguments
from rope.positions import align_positions, grid_positions, sequence_axis, shifted, size_of
from rope.rotation import (
    as_features,
    check_layout,
    compute_cos_sin,
    doubled,
    rotary_angles,
    rotate,
    xpos_scales,
)


class PositionLayer(keras.layers.Layer):
    """Base of the layers from positions to angles, which are float32 under every dtype policy."""

    layout: str
    _config: dict[str, Any]  # arguments of the constructor

    def __init__(self, *, name: str | None, dtype: Any, trainable: bool):
        # A mixed policy would cast positions to bfloat16.
        super().__init__(name=name, dtype=dtype, trainable=trainable, autocast=False)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return self.compute_output_spec(keras.KerasTensor(input_shape, "float32")).shape

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        # That of keras.layers.Layer has the compute dtype.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def add_frequencies(self, initial: np.ndarray) -> Any:
        return self.add_weight(
            name="frequencies",
            shape=initial.shape,
            dtype="float32",
            initializer=lambda shape, dtype: tf.constant(initial, dtype),
            autocast=False,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


def own_arguments(local_names: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a constructor, from its `locals()`, without those of every Keras layer."""
    others = ("self", "__class__", "name", "dtype", "trainable")
    return {key: value for key, value in local_names.items() if key not in others}


@keras.saving.register_keras_serializable(package="rope")
class RotaryEmbedding(PositionLayer):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) with explicit positions.

    Pure functions of the positions; angles, sines and products are float32 under every dtype policy. `RoPE`
    is the layer that rotates what it is called on.

    Args:
        dim: number of rotated features, even: the size of a head, or less for partial rotation.
        freqs_for: `lang` (tokens), `pixel` (coordinates in [-1, 1]) or `constant` (all 1).
        custom_freqs: (dim / 2,) frequencies that replace those of `freqs_for`.
        theta: rotation base of `lang`.
        theta_rescale_factor: NTK-aware scaling of `lang`; at least 1.
        max_freq, pixel_spacing: for `pixel`, see `rope.frequencies.pixel_frequencies`.
        num_freqs: for `constant`; must be dim / 2.
        learned_freq: makes the frequencies a float32 weight, stored unscaled, so that it can be scaled later.
        layout: `interleaved` or `half`, see `rope.rotation`.
        interpolate_factor: divides the positions (Chen et al. 2023, arXiv 2306.15595); at least 1.
        scaling: a Hugging Face `rope_scaling` dict, see `rope.scaling`. Its `rope_theta` replaces `theta`,
            and its `partial_rotary_factor` rotates that share of `dim`.
        target_length: sequence length for scalings that depend on one.
        use_xpos: makes scores decay with distance, see `rope.rotation.xpos_scales`; for causal attention.
        xpos_scale_base: tokens over which a score decays by zeta.
        xpos_max_length: exclusive upper limit of the positions, not checked for those of unknown value inside
            a `tf.function`; may change after training. Float16 needs at most 8 `xpos_scale_base`.
        seq_before_head_dim: the sequence axis is -3, as in (batch, length, heads, dim), instead of -2.
        name, dtype, trainable: as for every Keras layer.

    Call arguments:
        t: (..., length) positions, integer or float32.
        cache_key: accepted for compatibility and ignored.
        seq_len: expected length of `t`.
        offset: added to the positions.

    Returns:
        (..., length, dim) float32 angles in radians, that of each pair at both of its features.

    Arguments shared by the methods:
        x, q, k: (..., length, head_dim) queries or keys, which may differ in heads and length. Only the first
            dim features are rotated; shape and dtype do not change.
        seq_dim: sequence axis; -2, or -3 with `seq_before_head_dim`, when not given.
        offset: added to the positions: the number of tokens already in a cache.
        positions, key_positions: (length,), (batch, length), or every axis of `x` but the last; by default 0,
            1, 2, ..., and for keys those of the queries.

    Raises:
        TypeError: if `scaling` is no dict, positions are neither integers nor float32, queries or keys are
            not floating-point, or the layer is called on them.
        ValueError: if an argument is out of its range, contradicts another, or would have no effect.

    Example:

    >>> rotary = RotaryEmbedding(dim=8)
    >>> queries = tf.random.normal((2, 3, 5, 8))  # (batch, heads, length, head_dim)
    >>> rotary.rotate_queries_or_keys(queries).shape
    TensorShape([2, 3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        freqs_for: str = "lang",
        custom_freqs: Sequence[float] | None = None,
        theta: float = DEFAULTS["theta"],
        theta_rescale_factor: float = DEFAULTS["theta_rescale_factor"],
        max_freq: float = DEFAULTS["max_freq"],
        pixel_spacing: str = DEFAULTS["pixel_spacing"],
        num_freqs: int = DEFAULTS["num_freqs"],
        learned_freq: bool = False,
        layout: str = "interleaved",
        interpolate_factor: float = 1.0,
        scaling: Mapping[str, Any] | None = None,
        target_length: int | None = None,
        use_xpos: bool = False,
        xpos_scale_base: float = DEFAULTS["xpos_scale_base"],
        xpos_max_length: int = DEFAULTS["xpos_max_length"],
        seq_before_head_dim: bool = False,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.supports_masking = True
        if custom_freqs is not None:
            custom_freqs = np.asarray(custom_freqs, np.float64).tolist()
        if isinstance(scaling, Mapping):
            scaling = dict(scaling)
        self._config = own_arguments(locals())
        check_layout(layout)
        self._resolved = resolved = resolve(self._config)
        self.dim, self.theta, self.attention_factor = resolved.dim, resolved.theta, resolved.attention_factor
        self.interpolate_factor = resolved.interpolate_factor
        self.freqs_for, self.layout, self.use_xpos = freqs_for, layout, use_xpos
        self.xpos_scale_base, self.xpos_max_length = xpos_scale_base, xpos_max_length
        self.default_seq_dim = -3 if seq_before_head_dim else -2
        self._weight = self.add_frequencies(resolved.initial) if learned_freq else None
        self.built = True

    @classmethod
    def from_hf_config(
        cls, config: Mapping[str, Any], *, target_length: int | None = None, **kwargs: Any
    ) -> "RotaryEmbedding":
        """Embedding for the dict of a `config.json`; `kwargs` replace results of `rotary_arguments`."""
        return cls(**(rotary_arguments(config, target_length=target_length) | kwargs))

    @property
    def frequencies(self) -> np.ndarray | tf.Tensor:
        """(dim / 2,) radians per position, scaled: float64 NumPy, or a float32 tensor if they are learned."""
        if self._weight is None:
            return self._resolved.initial * self._resolved.ratios
        return tf.convert_to_tensor(self._weight) * tf.constant(self._resolved.ratios, tf.float32)

    def call(
        self,
        t: tf.Tensor,
        cache_key: object = None,
        seq_len: int | None = None,
        offset: float | tf.Tensor = 0,
    ) -> tf.Tensor:
        t = tf.convert_to_tensor(t)
        if t.shape.rank is not None and t.shape.rank > 2 and t.dtype.is_floating:
            raise TypeError(
                f"a RotaryEmbedding is called on positions, got {t.dtype.name} of shape {t.shape}. To rotate "
                "queries or keys, call a RoPE layer on them, or rotate_queries_or_keys(x)."
            )
        self.check_has_only_angles()
        if seq_len is not None and t.shape[-1] not in (None, seq_len):
            raise ValueError(f"seq_len must be the number of positions {t.shape[-1]}, got {seq_len}.")
        return doubled(self.angles(shifted(t, offset)), layout=self.layout)

    def angles(self, positions: tf.Tensor) -> tf.Tensor:
        """(..., length, dim / 2) angles in radians, float32, at (..., length) positions."""
        return rotary_angles(positions, self.frequencies)

    def cos_sin(self, positions: tf.Tensor) -> tf.Tensor:
        """Scaled float32 cosines and sines for `rotate`: the axes of `positions` plus (dim / 2, 2).

        (batch, length) positions give (batch, 1, length, dim / 2, 2), or with `seq_before_head_dim` (batch,
        length, 1, dim / 2, 2).
        """
        if self.use_xpos:
            raise ValueError("xPos scales queries and keys differently, got one of them. Use cos_sin_pair().")
        return self.cos_sin_pair(positions)[0]

    def cos_sin_pair(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`cos_sin` of queries and of keys, with xPos; the same object twice without it."""
        pair = self._cos_sin_pair(positions)
        if pair[0].shape.rank != 4:
            return pair
        heads_axis = 2 if self.default_seq_dim == -3 else 1
        queries = tf.expand_dims(pair[0], heads_axis)  # (batch, 1, length, dim / 2, 2)
        return queries, tf.expand_dims(pair[1], heads_axis) if self.use_xpos else queries

    def rotate(self, x: tf.Tensor, cos_sin: tf.Tensor) -> tf.Tensor:
        """Rotates (..., length, head_dim) queries or keys by a `cos_sin` of this embedding."""
        return rotate(x, cos_sin, layout=self.layout, seq_before_head_dim=self.default_seq_dim == -3)

    def rotate_queries_or_keys(
        self,
        x: tf.Tensor,
        seq_dim: int | None = None,
        offset: int | tf.Tensor = 0,
        scale: float | tf.Tensor | None = None,
        *,
        positions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Rotates queries or keys by their positions.

        Args:
            x, seq_dim, offset, positions: see the class.
            scale: multiplies the rotated features, and replaces the scales of xPos. A number, (length, dim),
                (batch, length, dim), or every axis of `x`, such as from `get_scale(positions)`.
        """
        x = as_features(x)
        if self.use_xpos and scale is None:
            raise ValueError("xPos scales queries and keys differently. Use rotate_queries_and_keys.")
        positions = self._positions(x, seq_dim, offset, positions)
        cos_sin = compute_cos_sin(self.angles(positions), self.attention_factor)
        factors = tf.cast(1.0 if scale is None else scale, tf.float32)
        if factors.shape.rank == 0:
            return rotate(x, cos_sin * factors, layout=self.layout)
        rows = align_positions(factors[..., 0], x, self._axis(x, seq_dim), name="rows of scale")
        factors = tf.reshape(factors, tf.concat([tf.shape(rows), factors.shape[-1:]], axis=0))
        rotated = rotate(tf.cast(x[..., : self.dim], tf.float32), cos_sin, layout=self.layout) * factors
        return tf.concat([tf.cast(rotated, x.dtype), x[..., self.dim :]], axis=-1)  # (..., length, head_dim)

    def rotate_queries_and_keys(
        self,
        q: tf.Tensor,
        k: tf.Tensor,
        seq_dim: int | None = None,
        *,
        offset: int | tf.Tensor = 0,
        positions: tf.Tensor | None = None,
        key_positions: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Rotates queries and keys, with xPos if the embedding uses it; for the arguments see the class."""
        q, k = as_features(q), as_features(k)
        if positions is None:
            positions = tf.range(size_of(q, self._axis(q, seq_dim)))
        if key_positions is None:
            key_positions = positions
        for_queries, _ = self._cos_sin_pair(self._positions(q, seq_dim, offset, positions))
        _, for_keys = self._cos_sin_pair(self._positions(k, seq_dim, offset, key_positions))
        return rotate(q, for_queries, layout=self.layout), rotate(k, for_keys, layout=self.layout)

    def rotate_queries_with_cached_keys(
        self, q: tf.Tensor, k: tf.Tensor, seq_dim: int | None = None, offset: int | tf.Tensor = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Rotates all keys of a sequence, at 0, 1, 2, ..., and its last queries, which `offset` shifts."""
        q, k = as_features(q), as_features(k)
        length, keys_length = (size_of(x, self._axis(x, seq_dim)) for x in (q, k))
        if isinstance(length, int) and isinstance(keys_length, int) and length > keys_length:
            raise ValueError(f"queries must not outnumber keys, got {length} queries and {keys_length} keys.")
        key_positions = tf.range(keys_length)
        positions = shifted(tf.range(length) + (keys_length - length), offset)
        return self.rotate_queries_and_keys(q, k, seq_dim, positions=positions, key_positions=key_positions)

    def get_seq_pos(self, seq_len: int | tf.Tensor, *, offset: int | tf.Tensor = 0) -> tf.Tensor:
        """(seq_len,) positions from `offset`; `interpolate_factor` divides them later, in the angles."""
        return tf.range(seq_len) + offset

    def get_scale(self, t: tf.Tensor) -> tf.Tensor:
        """(..., length, dim) scales of xPos for queries at (..., length) positions; keys use the inverse."""
        if not self.use_xpos:
            raise ValueError("get_scale needs use_xpos=True, got False.")
        return doubled(self._pair_scales(t), layout=self.layout)

    def get_axial_freqs(
        self,
        *dims: int | tf.Tensor,
        offsets: Sequence[float] | None = None,
        coordinates: str | None = None,
        axis_order: Sequence[int] | None = None,
    ) -> tf.Tensor:
        """(*dims, len(dims) * dim) angles for `apply_rotary_emb`; arguments of `grid_positions`.

        The default of `coordinates` is `unit` for `pixel` frequencies.
        """
        self.check_has_only_angles()
        if coordinates is None:
            coordinates = "unit" if self.freqs_for == "pixel" else "cells"
        positions = grid_positions(*dims, coordinates=coordinates, offsets=offsets, axis_order=axis_order)
        angles = self.angles(positions)  # (cells, axes, dim / 2)
        return doubled(tf.reshape(angles, (*dims, len(dims) * self.dim // 2)), layout=self.layout)

    def _cos_sin_pair(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(..., length, dim / 2, 2) of queries and of keys at (..., length) positions."""
        cos_sin = compute_cos_sin(self.angles(positions), self.attention_factor)
        if not self.use_xpos:
            return cos_sin, cos_sin
        scales = self._pair_scales(positions)[..., tf.newaxis]  # (..., length, dim / 2, 1)
        return cos_sin * scales, cos_sin / scales

    def _pair_scales(self, positions: tf.Tensor) -> tf.Tensor:
        """(..., length, dim / 2) scales of xPos; ValueError if positions or their number are out of range."""
        positions = tf.convert_to_tensor(positions)
        known, lowest, highest = tf.get_static_value(positions), 0, (positions.shape[-1] or 1) - 1
        if known is not None and known.size:
            lowest, highest = np.min(known), np.max(known)
        if lowest < 0 or highest >= self.xpos_max_length:
            raise ValueError(
                f"xPos positions must be in [0, xpos_max_length {self.xpos_max_length}), got {lowest} to "
                f"{highest}. A larger xpos_max_length leaves trained weights valid."
            )
        return xpos_scales(
            positions,
            self.dim,
            scale_base=self.xpos_scale_base,
            center=self.xpos_max_length // 2,
            interpolate_factor=self.interpolate_factor,
        )

    def _axis(self, x: tf.Tensor, seq_dim: int | None) -> int:
        return sequence_axis(x, self.default_seq_dim if seq_dim is None else seq_dim)

    def _positions(
        self, x: tf.Tensor, seq_dim: int | None, offset: int | tf.Tensor, positions: tf.Tensor | None
    ) -> tf.Tensor:
        """Positions of `x` plus `offset`, with every axis of `x` but the last."""
        axis = self._axis(x, seq_dim)
        if positions is None:
            positions = tf.range(size_of(x, axis))
        return shifted(align_positions(positions, x, axis), offset)

    def check_has_only_angles(self) -> None:
        """Raises ValueError if this embedding also has scales, which angles cannot hold."""
        if self.use_xpos:
            raise ValueError("angles cannot hold the scales of xPos. Use rotate_queries_and_keys.")
        if self.attention_factor != 1:
            factor = f"the attention factor {self.attention_factor:.4g} of the scaling"
            raise ValueError(f"angles cannot hold {factor}. Use rotate_queries_or_keys, or cos_sin.")
