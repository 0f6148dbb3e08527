"""Keras layers that rotate: `RoPE`, and the attention layers of Keras with rotated queries and keys.

Shape words: batch, heads, length; head_dim, the features of a head; `...`, batch and heads.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from rope.embedding import PositionLayer, RotaryEmbedding, own_arguments
from rope.frequencies import DEFAULTS
from rope.positions import size_of


@keras.saving.register_keras_serializable(package="rope")
class RoPE(PositionLayer):
    """Rotates the tensors it is called on by their positions (Su et al. 2021, arXiv 2104.09864).

    Args:
        dim: number of rotated features, even; the others pass through.
        use_xpos: scale queries and keys by xPos. The layer is then called on `[queries, keys]`.
        seq_before_head_dim: the sequence axis is -3, as in (batch, length, heads, head_dim), instead of -2.
        theta, theta_rescale_factor, interpolate_factor, custom_freqs, learned_freq, scaling, target_length,
            layout, xpos_scale_base, xpos_max_length: as for `RotaryEmbedding`.
        name, dtype, trainable: as for every Keras layer.

    Call arguments:
        x: (..., length, head_dim), or a list of queries and keys of one length.
        positions: (length,), (batch, length), or every axis of `x` but the last; 0, 1, 2, ... when not given.
        offset: added to the positions: the number of tokens already in a cache.

    Returns:
        The rotated tensor, or a tuple of rotated queries and keys, in the compute dtype of the layer.

    Example:

    >>> queries = tf.random.normal((2, 3, 5, 8))  # (batch, heads, length, head_dim)
    >>> RoPE(dim=8)(queries, offset=7).shape
    TensorShape([2, 3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        use_xpos: bool = False,
        seq_before_head_dim: bool = False,
        theta: float = DEFAULTS["theta"],
        theta_rescale_factor: float = DEFAULTS["theta_rescale_factor"],
        interpolate_factor: float = 1.0,
        custom_freqs: Sequence[float] | None = None,
        learned_freq: bool = False,
        scaling: Mapping[str, Any] | None = None,
        target_length: int | None = None,
        layout: str = "interleaved",
        xpos_scale_base: float = DEFAULTS["xpos_scale_base"],
        xpos_max_length: int = DEFAULTS["xpos_max_length"],
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        options = own_arguments(locals())
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.supports_masking = True
        # `rotate` applies xPos whether or not calls do.
        self.rotary = RotaryEmbedding(**{**options, "use_xpos": True}, trainable=trainable)
        self.dim, self.layout, self.use_xpos = self.rotary.dim, layout, use_xpos
        config = self.rotary.get_config()
        self._config = {key: config[key] for key in options} | {"use_xpos": use_xpos}
        self.built = True

    def call(
        self,
        x: tf.Tensor | Sequence[tf.Tensor],
        positions: tf.Tensor | None = None,
        offset: int | tf.Tensor = 0,
    ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        to_compute_dtype = partial(self.dtype_policy.convert_input, autocast=True, dtype=self.compute_dtype)
        x = keras.tree.map_structure(to_compute_dtype, x)
        rotate = partial(self.rotary.rotate_queries_or_keys, offset=offset, scale=1.0)
        if not isinstance(x, list | tuple):
            if self.use_xpos:
                raise ValueError("xPos scales queries and keys differently, got one. Call [queries, keys].")
            return rotate(x, positions=positions)
        queries, keys = x
        if positions is None:  # otherwise keys of another length would have positions of their own
            positions = tf.range(size_of(queries, self.rotary.default_seq_dim))
        if self.use_xpos:
            return self.rotary.rotate_queries_and_keys(queries, keys, offset=offset, positions=positions)
        return rotate(queries, positions=positions), rotate(keys, positions=positions)

    def rotate(self, x: tf.Tensor | Sequence[tf.Tensor]) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Rotates as in rope_tensorflow: one tensor without xPos, `[queries, keys]` with xPos."""
        if isinstance(x, list | tuple):
            return self.rotary.rotate_queries_and_keys(*x)
        return self.rotary.rotate_queries_or_keys(x, scale=1.0)

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple:
        return tuple(input_shape)


class _RotatedAttention(keras.layers.Layer):
    """Rotates queries and keys between the projections and the dot product of a Keras attention layer."""

    def __init__(self, *args: Any, rotary: RotaryEmbedding | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        rotary = RotaryEmbedding(self._head_dim()) if rotary is None else rotary
        # A copy, as Keras cannot load a file of layers that share the weight of learned frequencies.
        self.rotary = RotaryEmbedding.from_config(rotary.get_config())

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        if not self.trainable:  # Keras 3.15 builds the projections of a frozen layer as trainable
            for layer in self._flatten_layers(include_self=False):
                layer.trainable = False

    def _compute_attention(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if len(query.shape) != 4:  # (batch, length, heads, head_dim)
            name, axes = type(self).__name__, query.shape[:-2]
            raise ValueError(f"{name} needs inputs (batch, length, features), got {axes} and features.")
        key_positions = tf.range(size_of(key, 1))
        query, key = self.rotary.rotate_queries_and_keys(query, key, 1, key_positions=key_positions)
        return super()._compute_attention(query, key, value, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rotary": keras.saving.serialize_keras_object(self.rotary)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        rotary = keras.saving.deserialize_keras_object(config["rotary"])
        return super().from_config({**config, "rotary": rotary})


@keras.saving.register_keras_serializable(package="rope")
class RotaryAttention(_RotatedAttention, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with rotated queries and keys.

    Positions are 0, 1, 2, ... in queries and in keys. As scores depend on distances only, left padding and
    packed documents need a mask, but no positions.

    Args:
        num_heads, key_dim, ...: as for `keras.layers.MultiHeadAttention`.
        rotary: `RotaryEmbedding` of at most `key_dim` features, to be copied; `RotaryEmbedding(key_dim)` when
            not given.

    Call arguments and results are those of the layer, for (batch, length, features) inputs.

    Example:

    >>> x = tf.random.normal((2, 5, 12))  # (batch, length, features)
    >>> RotaryAttention(num_heads=3, key_dim=8)(x, x, use_causal_mask=True).shape
    TensorShape([2, 5, 12])
    """

    def _head_dim(self) -> int:
        return self.key_dim


@keras.saving.register_keras_serializable(package="rope")
class RotaryGroupQueryAttention(_RotatedAttention, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` with rotated queries and keys, and `rotary` as in `RotaryAttention`.

    Example:

    >>> x = tf.random.normal((2, 5, 12))  # (batch, length, features)
    >>> RotaryGroupQueryAttention(head_dim=8, num_query_heads=6, num_key_value_heads=2)(x, x).shape
    TensorShape([2, 5, 12])
    """

    def _head_dim(self) -> int:
        return self.head_dim
