"""Fast kernels and their gradients against plain formulas, and the biases of attention."""

import numpy as np
import pytest
import tensorflow as tf

from models.kernels import (
    CausalMask,
    alibi_bias,
    alibi_slopes,
    attend,
    attention_weights,
    gated,
    rms_normalize,
)

RANDOM = np.random.default_rng(0)
CAUSAL = np.where(np.arange(7) > np.arange(5)[:, np.newaxis] + 2, -1e9, 0.0).astype(np.float32)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def plain_gated(gate, up):
    return gate * tf.sigmoid(gate) * up


def plain_norm(x, scale):
    return x / tf.sqrt(tf.reduce_mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def plain_attention(queries, keys, values, bias=None):
    values = tf.repeat(values, queries.shape[1] // keys.shape[1], axis=1)
    return attention_weights(queries, keys, bias) @ values


QUERIES_KEYS_VALUES = (normal(2, 6, 5, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 8))
CASES = {
    "gated": (gated, plain_gated, (3 * normal(4, 5, 6), normal(4, 5, 6))),
    "norm": (rms_normalize, plain_norm, (normal(4, 5, 16), 1 + 0.2 * normal(16))),
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
    dtypes = [dtype, "float32"] if name == "norm" else [dtype] * len(arguments)
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
        shared = head // (heads // kv_heads)  # Llama: heads 0, 1, ... of a group are neighbors
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


def test_alibi_slopes_equal_the_published_ones():
    eight = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    np.testing.assert_array_equal(alibi_slopes(8), eight)
    np.testing.assert_allclose(  # 12 heads: those of 8, then every other one of 16
        alibi_slopes(12), eight + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5], rtol=1e-7
    )
    np.testing.assert_allclose(alibi_slopes(16), [2 ** (-i / 2) for i in range(1, 17)], rtol=1e-7)  # float32
    np.testing.assert_array_equal(alibi_slopes(1), [2**-8])


def test_alibi_bias_grows_with_distance():
    bias = alibi_bias(tf.constant([3, 4]), tf.range(5), 8)
    assert (bias.shape, bias.dtype) == ((8, 2, 5), tf.float32)
    np.testing.assert_array_equal(bias[0], [[-1.5, -1, -0.5, 0, 0.5], [-2, -1.5, -1, -0.5, 0]])  # slope 1/2
    np.testing.assert_array_equal(bias[2] * 4, bias[0])
    far = CausalMask("bfloat16", alibi_heads=8).bias(tf.constant([257]), tf.range(2))
    assert far.dtype == tf.float32 and far[0, 0, 0, 0] != far[0, 0, 0, 1]  # bfloat16 has no 257


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_causal_mask_hides_later_columns(dtype):
    bias = CausalMask(dtype.name).bias(tf.constant([1, 2]), tf.range(4))
    assert (bias.shape, bias.dtype) == ((1, 1, 2, 4), dtype)
    np.testing.assert_array_equal(bias[0, 0] == 0, [[True, True, False, False], [True, True, True, False]])
    weights = tf.nn.softmax(bias + tf.cast(50, dtype))
    np.testing.assert_array_equal(weights[0, 0, 0], [0.5, 0.5, 0, 0])


def test_causal_mask_hides_padding_and_other_documents():
    bias = CausalMask("float32", padding=tf.constant([0, 2])).bias(tf.range(3), tf.range(3))
    assert bias.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(bias[0, 0] == 0, np.tri(3, dtype=bool))
    np.testing.assert_array_equal(bias[1, 0] == 0, [[False] * 3, [False] * 3, [False, False, True]])
    assert np.all(np.isfinite(tf.nn.softmax(bias)))  # every key is hidden from the queries of the padding
    segment_ids = tf.constant([[0, 0, 1, 1, 1], [4, 5, 5, 5, 6]])
    bias = CausalMask("float32", segment_ids=segment_ids).bias(tf.constant([2, 4]), tf.range(5))
    assert bias.shape == (2, 1, 2, 5)
    expected = [[[0, 0, 1, 0, 0], [0, 0, 1, 1, 1]], [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]]
    np.testing.assert_array_equal(bias[:, 0] == 0, expected)


@pytest.mark.parametrize("block", [1, 3, 11])
def test_blockwise_mask_shows_the_block_of_a_query_and_the_previous_one(block):
    queries, keys = np.arange(2, 11), np.arange(11)
    bias = CausalMask("float32", block=block).bias(tf.constant(queries), tf.constant(keys))
    assert bias.shape == (1, 1, 9, 11)
    for row, query in enumerate(queries):
        first = max(0, query // block * block - block)
        np.testing.assert_array_equal(bias[0, 0, row] == 0, (keys >= first) & (keys <= query))
