"""The rotary embedding as one stateless Keras layer.

Shape words: batch, heads, length; head_dim, the features of a head; dim, the rotated ones; `...`, batch and
heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rope import xpos
from rope.axial import add_frequencies, axial_angles, axis_positions
from rope.frequencies import DEFAULTS, resolve
from rope.positions import align_positions, align_scale, sequence_axis, shifted, size_of
from rope.rotation import check_layout, doubled, rotary_angles, rotary_table, rotate, scaled_table


@keras.saving.register_keras_serializable(package="rope")
class RotaryEmbedding(keras.layers.Layer):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) with explicit positions.

    A table is a pure function of the positions. Angles, sines and products are float32 under every policy.

    Args:
        dim: number of rotated features, even: the size of a head, or less for partial rotation.
        freqs_for: `lang` (tokens), `pixel` (coordinates in [-1, 1]) or `constant` (all 1).
        custom_freqs: (dim / 2,) frequencies that replace those of `freqs_for`.
        theta: rotation base of `lang`.
        theta_rescale_factor: NTK-aware scaling of `lang`; at least 1.
        max_freq, pixel_spacing: for `pixel`, see `rope.frequencies.pixel_frequencies`.
        num_freqs: for `constant`; must be dim / 2.
        learned_freq: makes the frequencies a float32 weight. It is stored unscaled, so that trained
            frequencies can be scaled for a longer context.
        layout: `interleaved` or `half`, see `rope.rotation`.
        interpolate_factor: divides the positions, so that a longer context spans the angles seen in training
            (Chen et al. 2023, arXiv 2306.15595); at least 1.
        scaling: a Hugging Face `rope_scaling` dict, see `rope.scaling`. Its `rope_theta` replaces `theta`,
            and its `partial_rotary_factor` rotates that share of `dim`.
        target_length: sequence length for scalings that depend on one.
        use_xpos: makes scores decay with distance, see `rope.xpos`; for causal attention.
        xpos_scale_base: tokens over which a score decays by zeta.
        xpos_max_length: exclusive upper limit of the positions, which may differ between training and
            inference. Inside a `tf.function`, positions of unknown value are not checked against it.
        seq_before_head_dim: the sequence axis is -3, as in (batch, length, heads, dim), instead of -2.

    Call arguments:
        t: (..., length) positions, integer or float32. (float64 becomes float32.)
        cache_key: accepted for compatibility and ignored.
        seq_len: expected length of `t`.
        offset: added to the positions.

    Returns:
        (..., length, dim) angles in radians for `apply_rotary_emb`, float32, with the angle of each pair at
        both of its features.

    Arguments shared by the methods:
        x, q, k: (..., length, head_dim) queries or keys, which may differ in heads and length. Only the first
            dim features are rotated; shape and dtype do not change.
        seq_dim: sequence axis; -2, or -3 with `seq_before_head_dim`, when not given.
        offset: added to the positions: the number of tokens already in a cache.
        positions, key_positions: (length,), (batch, length), or every axis of `x` but the last; 0, 1, 2, ...
            when not given. Keys have the positions of the queries when not given.

    Raises:
        TypeError: if `scaling` is not a dict, or positions are bfloat16 or float16.
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
    ):
        # Without autocast=False, a mixed policy would cast positions to bfloat16.
        super().__init__(name=name, autocast=False, trainable=learned_freq)
        if custom_freqs is not None:
            custom_freqs = np.asarray(custom_freqs, np.float64).tolist()
        self._config = {
            "dim": dim,
            "freqs_for": freqs_for,
            "custom_freqs": custom_freqs,
            "theta": theta,
            "theta_rescale_factor": theta_rescale_factor,
            "max_freq": max_freq,
            "pixel_spacing": pixel_spacing,
            "num_freqs": num_freqs,
            "learned_freq": learned_freq,
            "layout": layout,
            "interpolate_factor": interpolate_factor,
            "scaling": dict(scaling) if isinstance(scaling, Mapping) else scaling,
            "target_length": target_length,
            "use_xpos": use_xpos,
            "xpos_scale_base": xpos_scale_base,
            "xpos_max_length": xpos_max_length,
            "seq_before_head_dim": seq_before_head_dim,
        }
        check_layout(layout)
        self._resolved = resolve(self._config)
        self.dim, self.theta = self._resolved.dim, self._resolved.theta
        self.attention_factor = self._resolved.attention_factor
        self.interpolate_factor = self._resolved.interpolate_factor
        self.freqs_for, self.layout = freqs_for, layout
        self.learned_freq, self.use_xpos = learned_freq, use_xpos
        self.xpos_scale_base, self.xpos_max_length = xpos_scale_base, xpos_max_length
        self.default_seq_dim = -3 if seq_before_head_dim else -2
        self._weight = add_frequencies(self, self._resolved.initial) if learned_freq else None
        self.built = True

    @property
    def frequencies(self) -> np.ndarray | tf.Tensor:
        """(dim / 2,) radians per position, scaled: float64 NumPy, or a float32 tensor if they are learned."""
        if self._weight is None:
            return self._resolved.scaled
        return tf.convert_to_tensor(self._weight) * tf.constant(self._resolved.ratios, tf.float32)

    def call(
        self,
        t: tf.Tensor,
        cache_key: object = None,
        seq_len: int | None = None,
        offset: float | tf.Tensor = 0,
    ) -> tf.Tensor:
        self._check_has_only_angles()
        if seq_len is not None and t.shape[-1] not in (None, seq_len):
            raise ValueError(f"seq_len must be the number of positions {t.shape[-1]}, got {seq_len}.")
        return doubled(self.angles(shifted(t, offset)), layout=self.layout)

    def angles(self, positions: tf.Tensor) -> tf.Tensor:
        """(..., length, dim / 2) angles in radians, float32, at (..., length) positions."""
        return rotary_angles(positions, self.frequencies)

    def tables(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tables for `rotate` of queries and of keys, with xPos and the attention factor of the scaling.

        Both are (..., length, dim / 2) complex64, and the same object without xPos. The layers of a model can
        share them. `positions` are (..., length), with an axis for the heads if they differ by row.
        """
        table = self._table_without_xpos(self.angles(positions))
        if not self.use_xpos:
            return table, table
        scales = self._pair_scales(positions)
        return scaled_table(table, scales), scaled_table(table, 1 / scales)

    def table(self, positions: tf.Tensor) -> tf.Tensor:
        """(..., length, dim / 2) table for `rotate` of queries and keys without xPos."""
        if self.use_xpos:
            raise ValueError("xPos scales queries and keys differently, got one table. Use tables().")
        return self.tables(positions)[0]

    def rotate(self, x: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """Rotates (..., length, head_dim) queries or keys by a table from this embedding."""
        (x,) = concrete(x)
        return rotate(x, table, layout=self.layout)

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
        (x,) = concrete(x)
        if self.use_xpos and scale is None:
            raise ValueError(
                "xPos scales queries and keys differently, got one of them. "
                "Use rotate_queries_and_keys or rotate_queries_with_cached_keys, or give scale."
            )
        positions = self._positions(x, seq_dim, offset, positions)
        table = self._table_without_xpos(self.angles(positions))
        if scale is None:
            return self.rotate(x, table)
        scale = align_scale(scale, x, self._axis(x, seq_dim), self.dim)
        scaled = self.rotate(tf.cast(x[..., : self.dim], tf.float32), table) * scale  # (..., length, dim)
        return tf.concat([tf.cast(scaled, x.dtype), x[..., self.dim :]], axis=-1)

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
        q, k = concrete(q, k)
        if positions is None:
            positions = tf.range(size_of(q, self._axis(q, seq_dim)))
        if key_positions is None:
            key_positions = positions
        for x in (q, k):
            self.check_compute_dtype(x.dtype)
        query_table, _ = self.tables(self._positions(q, seq_dim, offset, positions))
        _, key_table = self.tables(self._positions(k, seq_dim, offset, key_positions))
        return self.rotate(q, query_table), self.rotate(k, key_table)

    def rotate_queries_with_cached_keys(
        self, q: tf.Tensor, k: tf.Tensor, seq_dim: int | None = None, offset: int | tf.Tensor = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Rotates all keys of a sequence, at 0, 1, 2, ..., and its last queries, which `offset` shifts."""
        q, k = concrete(q, k)
        length = size_of(q, self._axis(q, seq_dim))
        keys_length = size_of(k, self._axis(k, seq_dim))
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
        return doubled(self._pair_scales(tf.convert_to_tensor(t)), layout=self.layout)

    def axial_angles(
        self,
        *dims: int,
        offsets: Sequence[float] | None = None,
        coordinates: str | None = None,
        axis_order: Sequence[int] | None = None,
    ) -> tf.Tensor:
        """(*dims, len(dims) * dim / 2) angles on a grid, float32, with the same frequencies for each axis.

        Args:
            dims: size of each axis: rows and columns of an image.
            offsets: added to the coordinates of each axis.
            coordinates: `cells` (0, 1, 2, ...) or `unit` (-1 to 1). When not given, `unit` for `pixel`
                frequencies and `cells` for others.
            axis_order: axis of each block of pairs, see `rope.axial.grid_angles`.
        """
        if self.use_xpos:
            raise ValueError("xPos decays along one causal axis, got a grid. Set use_xpos=False.")
        offsets = (0,) * len(dims) if offsets is None else offsets
        if not dims or len(offsets) != len(dims):
            raise ValueError(f"a grid needs one offset for each axis, got {len(offsets)} for sizes {dims}.")
        if coordinates is None:
            coordinates = "unit" if self.freqs_for == "pixel" else "cells"
        positions = [
            axis_positions(size, coordinates=coordinates, offset=offset)
            for size, offset in zip(dims, offsets, strict=True)
        ]
        return axial_angles(positions, tf.cast(self.frequencies, tf.float32), axis_order=axis_order)

    def get_axial_freqs(
        self,
        *dims: int,
        offsets: Sequence[float] | None = None,
        coordinates: str | None = None,
        axis_order: Sequence[int] | None = None,
    ) -> tf.Tensor:
        """(*dims, len(dims) * dim) angles for `apply_rotary_emb`; arguments as for `axial_angles`."""
        angles = self.axial_angles(*dims, offsets=offsets, coordinates=coordinates, axis_order=axis_order)
        self._check_has_only_angles()
        return doubled(angles, layout=self.layout)

    def axial_table(
        self,
        *dims: int,
        offsets: Sequence[float] | None = None,
        coordinates: str | None = None,
        axis_order: Sequence[int] | None = None,
    ) -> tf.Tensor:
        """(*dims, len(dims) * dim / 2) table for `rotate`; arguments as for `axial_angles`."""
        angles = self.axial_angles(*dims, offsets=offsets, coordinates=coordinates, axis_order=axis_order)
        return self._table_without_xpos(angles)

    def check_compute_dtype(self, dtype: tf.DType | str) -> None:
        """Raises ValueError if `dtype` is float16 and too narrow for the scales of xPos."""
        limit = int(xpos.MAX_SPAN_FLOAT16 * self.xpos_scale_base * self.interpolate_factor)
        if self.use_xpos and tf.as_dtype(dtype) == tf.float16 and self.xpos_max_length > limit:
            raise ValueError(
                f"xPos in float16 must have an xpos_max_length of at most {limit} (xpos_scale_base "
                f"{self.xpos_scale_base}), got {self.xpos_max_length}. Use bfloat16 or float32."
            )

    def get_config(self) -> dict:
        return {"name": self.name, **self._config}

    def _table_without_xpos(self, angles: tf.Tensor) -> tf.Tensor:
        table = rotary_table(angles)
        return table if self.attention_factor == 1 else scaled_table(table, self.attention_factor)

    def _pair_scales(self, positions: tf.Tensor) -> tf.Tensor:
        """(..., length, dim / 2) scales of xPos for queries."""
        xpos.check_positions(positions, self.xpos_max_length)
        return xpos.xpos_scales(
            positions,
            self.dim,
            scale_base=self.xpos_scale_base,
            centre=self.xpos_max_length // 2,
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

    def _check_has_only_angles(self) -> None:
        """Raises ValueError if this embedding also has scales, which a table of angles would lose."""
        if self.use_xpos:
            raise ValueError(
                "a table of angles cannot hold the scales of xPos. Use rotate_queries_and_keys or tables()."
            )
        if self.attention_factor != 1:
            raise ValueError(
                f"a table of angles cannot hold the attention factor {self.attention_factor:.4g} of its "
                "scaling. Use a rotate_ method, tables() or axial_table()."
            )


def concrete(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Converts arrays to tensors; raises TypeError for symbolic tensors of a Functional model."""
    if any(isinstance(tensor, keras.KerasTensor) for tensor in tensors):
        raise TypeError(
            "a method of a layer was called on a symbolic KerasTensor: Keras would not track the layer's "
            "weights. Call the layer on positions, or rotate inside the call of a layer of your own."
        )
    return [tf.convert_to_tensor(tensor) for tensor in tensors]
