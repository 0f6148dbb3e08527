"""Workloads implemented with Keras layers and `fit`, and with KerasHub."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from benchmarks.harness import Work
from benchmarks.ours import time_rotation

# A call of fit has an overhead of some 15 ms.
STEPS = 8
JIT_COMPILE = {"auto": "auto", "graph": False, "xla": True}


def rotation(*, dtype: str, **options) -> Work:
    import keras_hub

    rotary = keras_hub.layers.RotaryEmbedding(sequence_axis=2, dtype=dtype)
    return time_rotation(rotary, dtype=dtype, **options)


def text_step(*, batch: int, length: int, precision: str, mode: str, **sizes) -> Work:
    keras.config.set_dtype_policy(precision)
    model = language_model(length, **sizes)
    model.compile(
        optimizer=keras.optimizers.AdamW(weight_decay=0.1, beta_2=0.99, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=JIT_COMPILE[mode],
    )
    tokens = np.random.default_rng(0).integers(256, size=(batch, length + 1), dtype=np.int32)
    steps = tf.data.Dataset.from_tensors((tokens[:, :-1], tokens[:, 1:])).repeat(STEPS)
    return Work(lambda: model.fit(steps, verbose=0, shuffle=False), STEPS)


def language_model(length: int, *, dim: int, num_layers: int, num_heads: int, mlp_dim: int) -> keras.Model:
    """Language model of the same architecture, written as in the Keras guides."""
    tokens = keras.Input((length,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(256, dim)
    x = embedding(tokens)
    for _ in range(num_layers):
        x += Attention(length, num_heads, dim)(keras.layers.RMSNormalization()(x))
        normed = keras.layers.RMSNormalization()(x)
        gate, up = dense(mlp_dim, activation="silu")(normed), dense(mlp_dim)(normed)
        x += dense(dim)(gate * up)
    return keras.Model(tokens, embedding(keras.layers.RMSNormalization()(x), reverse=True))


def dense(features: int, **options) -> keras.layers.Dense:
    return keras.layers.Dense(features, use_bias=False, **options)


class Attention(keras.layers.Layer):
    """Causal attention over rotated queries and keys, in the half layout."""

    def __init__(self, length: int, num_heads: int, dim: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.query, self.key, self.value, self.projection = (dense(dim) for _ in range(4))
        frequencies = 10_000 ** -np.linspace(0, 1, self.head_dim // 2, endpoint=False)
        angles = np.outer(np.arange(length), frequencies)[:, np.newaxis]
        self.cosines, self.sines = np.cos(angles), np.sin(angles)

    def call(self, x):
        shape = (-1, x.shape[1], self.num_heads, self.head_dim)
        queries, keys, values = (ops.reshape(part(x), shape) for part in (self.query, self.key, self.value))
        mixed = ops.dot_product_attention(self.rotate(queries), self.rotate(keys), values, is_causal=True)
        return self.projection(ops.reshape(mixed, (-1, *x.shape[1:])))

    def rotate(self, x):
        cosines, sines = (ops.cast(table, x.dtype) for table in (self.cosines, self.sines))
        a, b = ops.split(x, 2, axis=-1)
        return ops.concatenate([a * cosines - b * sines, a * sines + b * cosines], axis=-1)
