"""Autoregressive transformer.

Shape words: batch, length, dim, vocab_size, kv_heads, head_dim; capacity is the number of cache columns.
"""

import math
from functools import partial

import keras
import tensorflow as tf

from models.attention import BlockOptions, LayerCache
from models.block import Block, draw_seed, dropout, fold_in, recompute
from models.chunked import attend_in_chunks, is_chunked
from models.config import TransformerLMConfig
from models.kernels import CausalMask, RMSNorm, attend
from models.position_embeddings import sinusoidal_embedding
from models.saving import ConfiguredModel
from rope.embedding import RotaryEmbedding
from rope.positions import positions_from_padding, positions_from_segments, size_of

EMBEDDING_STDDEV = 0.02
Cache = tuple[LayerCache, ...]  # one entry for each layer


@keras.saving.register_keras_serializable(package="models")
class TransformerLM(ConfiguredModel):
    """Decoder-only language model with the block of the Llama family (arXiv 2302.13971).

    Pre-norm, RMSNorm, SwiGLU, grouped-query attention; by default no biases, and tied embeddings.

    Args:
        config: sizes and options, see `TransformerLMConfig`.
        dtype: Keras dtype policy, `float32` or `mixed_bfloat16`.
        document_separator: token that starts each document of a packed row. If given, a call restarts the
            positions at each document and attends within it; `decode` ignores it.

    Call arguments:
        tokens: (batch, length) int32.
        training: whether to apply dropout.
        seed: (2,) int32 seed of all dropout in this call; None draws one from Keras' generator, as in `fit`.
        attention_block: columns in a block of blockwise causal attention (arXiv 2212.10554): a query attends
            to its own block and the previous one. None for full causal attention.
        last: number of positions at the end to return; None for all.

    Returns:
        (batch, length or last, vocab_size) logits of the next token, float32.

    Raises:
        ValueError: if the tokens exceed `context_length` with positions that end there.

    Example:

    >>> model = TransformerLM(TransformerLMConfig(dim=32, num_layers=1, mlp_dim=64))
    >>> model(tf.zeros((2, 5), tf.int32)).shape
    TensorShape([2, 5, 256])
    """

    config_class = TransformerLMConfig

    def __init__(
        self, config: TransformerLMConfig, *, dtype: str = "float32", document_separator: int | None = None
    ):
        super().__init__(dtype=dtype, name="transformer_lm")
        self.config = config
        self.document_separator = document_separator
        self.export_spec = tf.TensorSpec((None, None), tf.int32, name="tokens")
        policy = self.dtype_policy
        self.embedding = keras.layers.ReversibleEmbedding(
            config.vocab_size,
            config.dim,
            tie_weights=config.tied_embeddings,
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
        options = BlockOptions(
            dim=config.dim,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_size,
            mlp_dim=config.mlp_dim,
            input_stddev=config.initial_stddev,
            # GPT-2 scales the layers that write to the residual stream by the number of writes.
            output_stddev=config.initial_stddev * (2 * config.num_layers) ** -0.5,
            layout=config.rope.layout,
            norm_epsilon=config.norm_epsilon,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            learned_rotations=config.learned_rotations,
            dropout=config.dropout,
        )
        self.blocks = [Block(options, dtype=policy, name=f"block_{i}") for i in range(config.num_layers)]
        self.norm = RMSNorm(config.norm_epsilon, dtype=policy, name="norm")
        alibi_heads = config.num_heads if config.position == "alibi" else None
        self.causal_mask = partial(CausalMask, self.compute_dtype, alibi_heads)
        self(tf.zeros((1, 1), tf.int32))  # creates the weights

    def get_config(self) -> dict:
        return {**super().get_config(), "document_separator": self.document_separator}

    def call(self, tokens, training=False, seed=None, attention_block=None, last=None) -> tf.Tensor:
        features = self.features(tokens, training, seed, attention_block, last)
        logits = self.embedding(features, reverse=True)  # (batch, length or last, vocab_size)
        return tf.cast(logits, tf.float32)

    def features(self, tokens, training=False, seed=None, attention_block=None, last=None) -> tf.Tensor:
        """(batch, length or last, dim) features whose products with `output_embeddings` are the logits."""
        if training and self.config.dropout > 0 and seed is None:
            seed = draw_seed()
        self._check_length(tokens.shape[1])
        positions = columns = tf.range(tf.shape(tokens)[1])  # (length,)
        mask = self.causal_mask(block=attention_block)
        if self.document_separator is not None:
            segment_ids = tf.cumsum(tf.cast(tokens == self.document_separator, tf.int32), axis=1)
            positions = positions_from_segments(segment_ids)  # (batch, length)
            mask = mask._replace(segment_ids=segment_ids)
        if is_chunked(self.config.attention_kernel, tokens.shape[1], self.compute_dtype):
            kernel = partial(attend_in_chunks, mask=mask)
        else:
            kernel = partial(attend, bias=mask.bias(columns, columns))
        return self._forward(
            tokens,
            positions=positions,
            kernel=kernel,
            seed=seed if training else None,
            last=last,
            recomputes=training and self.config.recompute_blocks,
        )[0]

    def decode(self, tokens: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, Cache]:
        """(batch, length, vocab_size) float32 logits of tokens after those of the cache, and their cache."""
        start, padding, length = cache[0].start, cache[0].padding, tf.shape(tokens)[1]
        columns = start + tf.range(length)  # (length,)
        bias = self.causal_mask(padding=padding).bias(columns, tf.range(size_of(cache[0].keys, 2)))
        positions = positions_from_padding(padding, length, start=start)  # (batch, length)
        kernel = partial(attend, bias=bias)
        features, cache = self._forward(tokens, positions=positions, kernel=kernel, cache=cache)
        return tf.cast(self.embedding(features, reverse=True), tf.float32), cache

    def output_embeddings(self) -> tf.Tensor:
        """(vocab_size, dim) embeddings of the next token, in the compute dtype."""
        layer = self.embedding
        values = layer.embeddings if self.config.tied_embeddings else tf.transpose(layer.reverse_embeddings)
        return tf.cast(values, self.compute_dtype)

    def make_cache(self, batch: int, *, capacity: int | None = None, padding=None) -> Cache:
        """Empty cache; `capacity` is `context_length` if None, `padding` the (batch,) columns at the left."""
        capacity = capacity or self.config.context_length
        self._check_length(capacity)
        cache = tf.nest.map_structure(
            lambda spec: tf.zeros([batch if size is None else size for size in spec.shape], spec.dtype),
            self.cache_spec(capacity),
        )
        if padding is not None:
            cache = tuple(layer._replace(padding=tf.cast(padding, tf.int32)) for layer in cache)
        return cache

    def cache_spec(self, capacity: int | None) -> Cache:
        """`tf.TensorSpec`s of a cache with `capacity` columns (None for any) and any number of rows."""
        kv_heads, head_dim = self.config.num_kv_heads, self.config.head_size
        store = tf.TensorSpec((None, kv_heads, capacity, head_dim), self.compute_dtype)
        layer = LayerCache(
            keys=store,
            values=store,
            start=tf.TensorSpec((), tf.int32),
            padding=tf.TensorSpec((None,), tf.int32),
            rotation=tf.TensorSpec((None, kv_heads, head_dim // 2), tf.float32),
        )
        return (layer,) * len(self.blocks)

    def _forward(self, tokens, *, positions, kernel, cache=None, seed=None, last=None, recomputes=False):
        """Features of all or the last tokens, and the cache; positions are (length,) or (batch, length)."""
        x = self.embedding(tokens)  # (batch, length, dim)
        if self.position_embedding is not None:
            x += self.position_embedding(positions)
        elif self.config.position == "sinusoidal":
            # Larger embeddings, since sinusoids have an amplitude of 1 (arXiv 1706.03762, section 3.4).
            x *= math.sqrt(self.config.dim)
            x += tf.cast(sinusoidal_embedding(positions, self.config.dim), x.dtype)
        x = dropout(x, self.config.dropout, fold_in(seed, len(self.blocks)))
        cos_sin = None if self.rotary is None else self.rotary.cos_sin_pair(positions)
        layers = []
        for index, block in enumerate(self.blocks):
            options = {"cos_sin": [cos_sin], "kernel": kernel, "seed": fold_in(seed, index)}
            if recomputes:
                x = recompute(block, x, **options)
                continue
            x, layer = block(x, cache=None if cache is None else cache[index], **options)
            layers.append(layer)
        if last is not None:
            x = x[:, -last:]  # (batch, last, dim)
        return self.norm(x), tuple(layers)

    def _check_length(self, length: int | None) -> None:
        limit, has_xpos = self.config.context_length, self.config.rope.xpos
        if (has_xpos or self.config.position == "learned") and length is not None and length > limit:
            kind = "positions under xPos" if has_xpos else "learned positions"
            raise ValueError(f"{kind} end at context_length {limit}, got {length} tokens.")
