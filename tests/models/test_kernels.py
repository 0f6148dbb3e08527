"""Fast kernels and their gradients against plain formulas."""

import numpy as np
import pytest
import tensorflow as tf

from models.kernels import attend, gated, plain_attention, rms_normalize

RANDOM = np.random.default_rng(0)
CAUSAL = np.where(np.arange(7) > np.arange(5)[:, np.newaxis] + 2, -1e9, 0.0).astype(np.float32)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def plain_gated(gate, up):
    return gate * tf.sigmoid(gate) * up


def plain_norm(x, scale):
    return x / tf.sqrt(tf.reduce_mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


QUERIES_KEYS_VALUES = (normal(2, 6, 5, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 8))
CASES = {
    "gated": (gated, plain_gated, (3 * normal(4, 5, 6), normal(4, 5, 6))),
    "norm": (rms_normalize, plain_norm, (normal(4, 5, 16), 1 + 0.2 * normal(16))),
    "norm of heads": (rms_normalize, plain_norm, (normal(2, 3, 5, 8), 1 + 0.2 * normal(8))),
    "attend": (attend, plain_attention, QUERIES_KEYS_VALUES),
    "attend, masked": (
        lambda *x: attend(*x, CAUSAL),
        lambda *x: plain_attention(*x, CAUSAL),
        QUERIES_KEYS_VALUES,
    ),
}


def with_gradients(function, arguments, upstream):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        result = function(*arguments)
    return result, *tape.gradient(result, arguments, upstream)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_kernels_and_their_gradients_equal_the_plain_formula(name, dtype):
    function, plain, arguments = CASES[name]
    # The scale of a norm is always float32.
    dtypes = [dtype, "float32"] if name.startswith("norm") else [dtype] * len(arguments)
    arguments = [tf.cast(x, dtype) for x, dtype in zip(arguments, dtypes, strict=True)]
    upstream = tf.cast(np.random.default_rng(1).normal(size=function(*arguments).shape), dtype)
    exact = with_gradients(plain, [tf.cast(x, "float32") for x in arguments], tf.cast(upstream, "float32"))
    bound = 1e-5 if dtype == "float32" else 2**-6  # bfloat16 has 8 bits
    for mode in ("eager", "graph", "xla"):
        run = with_gradients if mode == "eager" else tf.function(with_gradients, jit_compile=mode == "xla")
        results = run(function, arguments, upstream)
        for found, expected, dtype_ in zip(results, exact, [dtype, *dtypes], strict=True):
            assert found.dtype == dtype_
            difference = np.mean(abs(tf.cast(found, "float32") - expected))
            assert difference < bound * np.std(expected), mode


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
def test_consecutive_query_heads_share_keys_and_values(kv_heads):
    batch, heads, length, keys_length, head_dim = 2, 6, 3, 5, 8
    queries, bias = normal(batch, heads, length, head_dim), normal(batch, heads, length, keys_length)
    keys, values = (normal(batch, kv_heads, keys_length, head_dim) for _ in range(2))
    expected = np.empty_like(queries)
    for head in range(heads):
        shared = head // (heads // kv_heads)  # Llama: heads 0, 1, ... of a group are neighbours
        scores = queries[:, head] @ keys[:, shared].swapaxes(1, 2) / np.sqrt(head_dim) + bias[:, head]
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        expected[:, head] = weights @ values[:, shared]
    for function in (attend, plain_attention):
        found = function(*map(tf.constant, (queries, keys, values, bias)))
        np.testing.assert_allclose(found, expected, atol=1e-5)  # float32, sums of 8


@pytest.mark.parametrize("compiled", [False, True])
def test_attention_in_bfloat16_sums_long_rows(compiled):
    length = 2_048  # a bfloat16 sum of ones stops at 256
    like = {"shape": (1, 1, length, 2), "dtype": tf.bfloat16}
    queries, values = tf.zeros((1, 1, 1, 2), tf.bfloat16), tf.ones(**like)
    run = tf.function(attend, jit_compile=True) if compiled else attend
    mixed = run(queries, tf.zeros(**like), values, tf.zeros((1, 1, 1, length), tf.bfloat16))
    np.testing.assert_allclose(tf.cast(mixed, tf.float32), 1, rtol=2**-7)  # bfloat16
