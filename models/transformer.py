"""A small autoregressive transformer."""

from functools import partial

import keras
import tensorflow as tf

from models.cache import Cache
from models.chunked import attend_in_chunks, is_chunked
from models.config import TransformerLMConfig
from models.fused import RMSNorm
from models.layers import Block, dropout, fold_in, recomputed
from models.positions import CausalMask, sinusoidal_embedding
from rope.embedding import RotaryEmbedding
from rope.positions import positions_from_padding, positions_from_segments

NORM_EPSILON = 1e-5
EMBEDDING_STDDEV = 0.02


class TransformerLM(keras.Model):
    """Decoder-only language model with the Llama family's block (arXiv 2302.13971).

    Pre-norm, RMSNorm, SwiGLU, no biases, grouped-query attention, tied embeddings.

    Args:
        config: sizes and options, see `TransformerLMConfig`.
        dtype: Keras dtype policy, `float32` or `mixed_bfloat16`.
        document_separator: the token that begins each document of a row that packs several. With it, a call
            begins positions anew with each document and keeps attention inside it; `decode` is not concerned.

    Call arguments:
        tokens: (batch, length) int32.
        training: whether to drop out.
        seed: (2,) int32 that all dropout of this call is drawn from; needed if training with dropout.
        attention_block: columns of a block, for blockwise causal attention (arXiv 2212.10554): a query sees
            its own block and the one before it. Full causal attention when not given.
        last: how many positions at the end to give logits of; all when not given.

    Returns:
        (batch, length, vocab_size) logits of the next token, float32; `last` in place of length if given.

    Raises:
        ValueError: if the config contradicts itself, a seed is missing, or a learned position is asked for
            beyond `context_length`.

    Example:

    >>> model = TransformerLM(TransformerLMConfig(dim=32, num_layers=1, mlp_dim=64))
    >>> model(tf.zeros((2, 5), tf.int32)).shape
    TensorShape([2, 5, 256])
    """

    def __init__(
        self, config: TransformerLMConfig, *, dtype: str = "float32", document_separator: int | None = None
    ):
        super().__init__(dtype=dtype, name="transformer_lm")
        parts = (config, config.rope, config.rope.scaling)
        problems = [f"{key} {message}" for part in parts for key, message in part.problems()]
        if problems:
            raise ValueError("; ".join(problems))
        self.config = config
        self.document_separator = document_separator
        self.head_dim = config.head_dim
        policy = self.dtype_policy
        self.embedding = keras.layers.ReversibleEmbedding(
            config.vocab_size,
            config.dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=EMBEDDING_STDDEV),
            dtype=policy,
            name="embedding",
        )
        self.position_embedding = None
        if config.position == "learned":
            self.position_embedding = keras.layers.Embedding(
                config.context_length,
                config.dim,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=EMBEDDING_STDDEV),
                dtype=policy,
                name="position_embedding",
            )
        self.rotary = None
        if config.position == "rotary":
            self.rotary = RotaryEmbedding(**config.rotary_options(), name="rotary")
            self.rotary.check_compute_dtype(self.compute_dtype)
        self.blocks = [
            Block(
                num_heads=config.num_heads,
                num_kv_heads=config.num_kv_heads,
                head_dim=self.head_dim,
                mlp_dim=config.mlp_dim,
                qk_norm=config.qk_norm,
                layout=config.rope.layout,
                learned_rotations=config.learned_rotations,
                norm_epsilon=NORM_EPSILON,
                input_stddev=config.initial_stddev,
                # GPT-2's scaling of what is added to the residual stream.
                output_stddev=config.initial_stddev * (2 * config.num_layers) ** -0.5,
                dropout_rate=config.dropout,
                dtype=policy,
                name=f"block_{index}",
            )
            for index in range(config.num_layers)
        ]
        self.norm = RMSNorm(epsilon=NORM_EPSILON, dtype=policy, name="norm")
        self(tf.zeros((1, 1), tf.int32))  # makes the weights

    def call(
        self,
        tokens: tf.Tensor,
        training: bool = False,
        seed: tf.Tensor | None = None,
        attention_block: int | None = None,
        last: int | None = None,
    ) -> tf.Tensor:
        if training and self.config.dropout > 0 and seed is None:
            raise ValueError("training with dropout needs a seed: model(tokens, training=True, seed=seed).")
        self._check_length(tokens.shape[1])
        positions = columns = tf.range(tf.shape(tokens)[1])
        mask = self._mask()._replace(block=attention_block)
        if self.document_separator is not None:
            segment_ids = tf.cumsum(tf.cast(tokens == self.document_separator, tf.int32), axis=1)
            positions = positions_from_segments(segment_ids)
            mask = mask._replace(segment_ids=segment_ids)
        if is_chunked(self.config.attention_kernel, tokens.shape[1]):
            # Not an argument of its own: Keras refuses tuples of tensors and others.
            attention = {"kernel": partial(attend_in_chunks, mask=mask)}
        else:
            attention = {"bias": mask.bias(columns, columns)}
        logits, _ = self._forward(
            tokens,
            positions=positions,
            attention=attention,
            seed=seed if training else None,
            last=last,
            recompute=training and self.config.recompute_blocks,
        )
        return logits

    def make_cache(
        self, batch: int, *, capacity: int | None = None, padding: tf.Tensor | None = None
    ) -> Cache:
        """An empty cache.

        Args:
            batch: rows.
            capacity: columns that it can hold; `context_length` when not given.
            padding: (batch,) int32 padding columns at the left of each row; none when not given.

        Raises:
            ValueError: if `capacity` goes beyond the positions that the model has.
        """
        capacity = capacity or self.config.context_length
        self._check_length(capacity)
        shape = (batch, self.config.num_kv_heads, capacity, self.head_dim)
        empty = tuple(tf.zeros(shape, self.compute_dtype) for _ in self.blocks)
        if padding is None:
            padding = tf.zeros(batch, tf.int32)
        return Cache(
            keys=empty,
            values=empty,
            length=tf.constant(0),
            padding=tf.cast(padding, tf.int32),
            rotations=tuple(
                tf.zeros(self._rotation_shape(batch)) for _ in self.blocks if self._keeps_rotations
            ),
        )

    def cache_spec(self, capacity: int | None) -> Cache:
        """The signature of a cache of that capacity, or of any, for any number of rows."""
        shape = (None, self.config.num_kv_heads, capacity, self.head_dim)
        store = tf.TensorSpec(shape, self.compute_dtype)
        rotation = tf.TensorSpec(self._rotation_shape(None), tf.float32)
        return Cache(
            keys=(store,) * len(self.blocks),
            values=(store,) * len(self.blocks),
            length=tf.TensorSpec((), tf.int32),
            padding=tf.TensorSpec((None,), tf.int32),
            rotations=(rotation,) * len(self.blocks) if self._keeps_rotations else (),
        )

    def decode(self, tokens: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, Cache]:
        """Continues a cached sequence by one or more tokens.

        Args:
            tokens: (batch, length) int32, the columns after those in the cache, within its capacity.
            cache: from `make_cache` or an earlier call.

        Returns:
            (batch, length, vocab_size) logits, float32, and the cache with the tokens in it.
        """
        length = tf.shape(tokens)[1]
        columns = cache.length + tf.range(length)
        logits, layers = self._forward(
            tokens,
            positions=positions_from_padding(cache.padding, length, start=cache.length),
            attention={"bias": self._mask(cache.padding).bias(columns, tf.range(cache.capacity))},
            cache=cache,
        )
        return logits, cache._replace(
            keys=tuple(layer.keys for layer in layers),
            values=tuple(layer.values for layer in layers),
            length=cache.length + length,
            rotations=tuple(layer.rotation for layer in layers if self._keeps_rotations),
        )

    def _forward(self, tokens, *, positions, attention, cache=None, seed=None, last=None, recompute=False):
        """Logits of all or the last tokens, and per layer the cache; positions are ([batch,] length)."""
        x = self.embedding(tokens)
        if self.position_embedding is not None:
            x += self.position_embedding(positions)
        elif self.config.position == "sinusoidal":
            x += tf.cast(sinusoidal_embedding(positions, self.config.dim), x.dtype)
        x = dropout(x, self.config.dropout, fold_in(seed, len(self.blocks)))
        tables = None
        if self.rotary is not None:
            # An axis for the heads, where the positions differ by row.
            tables = self.rotary.tables(positions if positions.shape.rank == 1 else positions[:, tf.newaxis])
        layers = []
        for index, block in enumerate(self.blocks):
            options = attention | {"seed": fold_in(seed, index)}
            if recompute:
                x = recomputed(partial(_without_cache, block), x, tables=tables, **options)
                continue
            layer_cache = None if cache is None else cache.layer(index)
            x, layer_cache = block(x, tables=tables, cache=layer_cache, **options)
            layers.append(layer_cache)
        if last is not None:
            x = x[:, -last:]
        logits = self.embedding(self.norm(x), reverse=True)
        return tf.cast(logits, tf.float32), layers

    @property
    def _keeps_rotations(self) -> bool:
        return self.config.learned_rotations == "cumulative"

    def _rotation_shape(self, batch: int | None) -> tuple[int | None, ...]:
        return batch, self.config.num_kv_heads, self.head_dim // 2

    def _check_length(self, length: int | None) -> None:
        """Learned positions and xPos end with the context; inside a graph only the static length is known."""
        is_bounded = self.position_embedding is not None or self.config.rope.xpos
        if is_bounded and length is not None and length > self.config.context_length:
            kind = "positions under xPos" if self.config.rope.xpos else "learned positions"
            raise ValueError(
                f"{kind} end at context_length {self.config.context_length}, got {length} tokens."
            )

    def _mask(self, padding: tf.Tensor | None = None) -> CausalMask:
        heads = self.config.num_heads if self.config.position == "alibi" else None
        return CausalMask(self.compute_dtype, alibi_heads=heads, padding=padding)


def _without_cache(block, x, **options):
    return block(x, **options)[0]
