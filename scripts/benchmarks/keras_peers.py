"""The same work by Keras layers under `fit`, and by KerasHub."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from scripts.benchmarks.harness import Work
from scripts.benchmarks.ours import rotation_by

VOCAB_SIZE, STEPS = 256, 4


def rotation(**options) -> Work:
    import keras_hub

    return rotation_by(keras_hub.layers.RotaryEmbedding(sequence_axis=2), **options)


def fit_step(
    *,
    batch: int,
    length: int,
    dim: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    mlp_dim: int,
    precision: str,
    mode: str,
) -> Work:
    """A step of a language model of the same architecture, written as Keras' guides write theirs."""
    keras.config.set_dtype_policy(precision)
    tokens = keras.Input((length,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(VOCAB_SIZE, dim)
    x = embedding(tokens)
    for _ in range(num_layers):
        x += Attention(num_heads, num_kv_heads, dim // num_heads)(keras.layers.RMSNormalization()(x))
        normed = keras.layers.RMSNormalization()(x)
        gate, up = dense(mlp_dim, activation="silu")(normed), dense(mlp_dim)(normed)
        x += dense(dim)(gate * up)
    logits = embedding(keras.layers.RMSNormalization()(x), reverse=True)
    model = keras.Model(tokens, logits)
    model.compile(
        optimizer=keras.optimizers.AdamW(weight_decay=0.1, beta_2=0.99, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile={"auto": "auto", "graph": False, "xla": True}[mode],
    )
    random = np.random.default_rng(0).integers(VOCAB_SIZE, size=(batch, length + 1), dtype=np.int32)
    steps = tf.data.Dataset.from_tensors((random[:, :-1], random[:, 1:])).repeat(STEPS)
    return Work(lambda: model.fit(steps, verbose=0, shuffle=False), STEPS)


def dense(features: int, **options) -> keras.layers.Dense:
    return keras.layers.Dense(features, use_bias=False, **options)


class Attention(keras.layers.Layer):
    """Causal attention over rotated queries and keys, in the half layout."""

    def __init__(self, num_heads: int, num_kv_heads: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.query, self.key, self.value = (
            dense(heads * head_dim) for heads in (num_heads, num_kv_heads, num_kv_heads)
        )
        self.output_projection = dense(num_heads * head_dim)

    def build(self, shape):
        for part in (self.query, self.key, self.value):
            part.build(shape)
        self.output_projection.build((*shape[:-1], self.query.units))
        angles = np.outer(
            np.arange(shape[1]), 10_000 ** -np.linspace(0, 1, self.head_dim // 2, endpoint=False)
        )
        self.cosines, self.sines = np.cos(angles)[:, np.newaxis], np.sin(angles)[:, np.newaxis]

    def call(self, x):
        batch, length, _ = ops.shape(x)
        queries, keys, values = (
            ops.reshape(part(x), (batch, length, -1, self.head_dim))
            for part in (self.query, self.key, self.value)
        )
        if (group := self.query.units // self.key.units) > 1:
            keys, values = ops.repeat(keys, group, axis=2), ops.repeat(values, group, axis=2)
        mixed = ops.dot_product_attention(self.rotate(queries), self.rotate(keys), values, is_causal=True)
        return self.output_projection(ops.reshape(mixed, (batch, length, -1)))

    def rotate(self, x):
        cosines, sines = (ops.cast(table, x.dtype) for table in (self.cosines, self.sines))
        a, b = ops.split(x, 2, axis=-1)
        return ops.concatenate([a * cosines - b * sines, a * sines + b * cosines], axis=-1)
