"""Transformer block of both models: attention, feed-forward, dropout.

Shape words: batch, length, rows, columns, dim, mlp_dim.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from models.attention import Attention, BlockOptions, CosSinPair, LayerCache, projection
from models.kernels import RMSNorm, gated
from rope.positions import size_of


class Block(keras.layers.Layer):
    """Pre-norm transformer block: attention, then feed-forward, each added to the residual stream.

    Full attention is one attention layer. Axial attention is two: within rows, then within columns (Ho et al.
    2019, arXiv 1912.12180).

    Args:
        options: see `BlockOptions`.
        drop_path_rate: probability that an example skips a branch.

    Call arguments:
        x: (batch, length, dim) for full attention, (batch, rows, columns, dim) for axial.
        cos_sin: for each attention layer those of queries and keys, or None without rotary positions.
        kernel: function from queries, keys and values to the attended values, such as `attend`.
        cache: keys and values of the earlier tokens, or None; full attention only.
        seed: (2,) int32 seed of the dropout, or None for no dropout.

    Returns:
        The new `x`, and the cache with the keys and values of this call.
    """

    def __init__(self, options: BlockOptions, *, drop_path_rate: float = 0.0, dtype, name: str):
        # autocast would cast `cos_sin` to the compute dtype.
        super().__init__(dtype=dtype, name=name, autocast=False)
        self.options, self.drop_path_rate = options, drop_path_rate
        if options.attention == "full":
            names = ("attention",)
        elif options.attention == "axial":
            names = ("row_attention", "column_attention")
        else:
            raise ValueError(f"attention must be one of full, axial; got {options.attention!r}.")
        self.attention_norms, self.attentions = [], []
        for part in names:
            self.attention_norms.append(RMSNorm(options.norm_epsilon, dtype=dtype, name=f"{part}_norm"))
            self.attentions.append(Attention(options, dtype=dtype, name=part))
        self.mlp_norm = RMSNorm(options.norm_epsilon, dtype=dtype, name="mlp_norm")
        self.mlp = FeedForward(options, dtype=dtype, name="mlp")
        self.built = True  # the sublayers build themselves; Keras would trace the call to build them

    def call(
        self,
        x: tf.Tensor,
        *,
        cos_sin: Sequence[CosSinPair | None],
        kernel: Callable[..., tf.Tensor],
        cache: LayerCache | None = None,
        seed: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, LayerCache | None]:
        for part, (norm, attention) in enumerate(zip(self.attention_norms, self.attentions, strict=True)):
            options = {"cos_sin": cos_sin[part], "kernel": kernel}
            if self.options.attention == "full":
                mixed, cache = attention(norm(x), cache=cache, **options)
            elif part == 0:
                mixed = attend_within_rows(attention, norm(x), **options)
            else:
                columns = tf.transpose(norm(x), (0, 2, 1, 3))  # (batch, columns, rows, dim)
                mixed = tf.transpose(attend_within_rows(attention, columns, **options), (0, 2, 1, 3))
            x = self._add(x, mixed, fold_in(seed, part))
        return self._add(x, self.mlp(self.mlp_norm(x)), fold_in(seed, len(self.attentions))), cache

    def _add(self, x, branch, seed):
        branch = dropout(branch, self.options.dropout, seed)
        return x + dropout(branch, self.drop_path_rate, fold_in(seed, 1), whole_examples=True)


def attend_within_rows(attention: Attention, x: tf.Tensor, **options) -> tf.Tensor:
    """Attention among the patches of each row of (batch, rows, columns, dim)."""
    rows, columns, dim = (size_of(x, axis) for axis in (1, 2, 3))
    mixed, _ = attention(tf.reshape(x, (-1, columns, dim)), **options)  # (batch * rows, columns, dim)
    return tf.reshape(mixed, (-1, rows, columns, dim))


class FeedForward(keras.layers.Layer):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): (silu(x W_gate) * x W_up) W_down, dim -> mlp_dim -> dim."""

    def __init__(self, options: BlockOptions, *, dtype, name: str):
        super().__init__(dtype=dtype, name=name)
        self.gate_and_up = projection(
            2 * options.mlp_dim, stddev=options.input_stddev, dtype=dtype, name="gate_and_up"
        )
        self.down = projection(options.dim, stddev=options.output_stddev, dtype=dtype, name="down")

    def build(self, input_shape):
        self.gate_and_up.build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if x.shape[1] == 1:
            gate, up = tf.split(self.gate_and_up(x), 2, axis=-1)  # (batch, 1, mlp_dim) each
        else:
            # Splitting the kernel copies far less than splitting the product.
            kernel = tf.cast(self.gate_and_up.kernel, self.compute_dtype)  # (dim, 2 * mlp_dim)
            gate, up = (tf.tensordot(x, half, 1) for half in tf.split(kernel, 2, axis=-1))
        return self.down(gated(gate, up))


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None, *, whole_examples: bool = False) -> tf.Tensor:
    """Zeroes features with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
        x: tensor of any shape.
        rate: probability in [0, 1).
        seed: (2,) int32, which alone determines the mask; None for no dropout.
        whole_examples: drop entries of axis 0; on a branch, this is stochastic depth (arXiv 1603.09382).
    """
    if seed is None or rate == 0:
        return x
    shape = [tf.shape(x)[0]] + [1] * (x.shape.rank - 1) if whole_examples else tf.shape(x)
    # Drawn in float32: bfloat16 draws are multiples of 1/128, and would round the rate to one.
    keep = tf.random.stateless_uniform(shape, seed, alg="philox") >= rate
    return tf.where(keep, x / (1 - rate), tf.zeros_like(x))


def draw_seed() -> tf.Tensor:
    """(2,) int32 from Keras' global generator, which `keras.utils.set_random_seed` seeds."""
    return keras.random.randint((2,), 0, 2**31 - 1)


def fold_in(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """An independent seed for part `number` of a computation that is seeded by `seed` (2,)."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)


def recompute(block: Block, x: tf.Tensor, *, cos_sin, **options) -> tf.Tensor:
    """Applies `block` with gradient checkpointing: the backward pass recomputes its activations from `x`.

    Gradients flow to `x`, the weights and `cos_sin` only (Chen et al. 2016, arXiv 1604.06174).
    """
    pairs = [pair or () for pair in cos_sin]  # `tf.recompute_grad` takes tensors only, not None

    def run(x, *tensors):
        return block(x, cos_sin=tf.nest.pack_sequence_as(pairs, tensors), **options)[0]

    return tf.recompute_grad(run)(x, *tf.nest.flatten(pairs))
