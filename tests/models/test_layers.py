import keras
import numpy as np
import pytest
import tensorflow as tf

import models.layers
from models.layers import Attention, Block, attend, dropout, fold_in
from rope.embedding import RotaryEmbedding

SEED = tf.constant([3, 4], tf.int32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
def test_attention_shares_keys_and_values_among_consecutive_heads(kv_heads):
    batch, heads, length, keys_length, head_dim = 2, 6, 3, 5, 8
    queries = normal(batch, heads, length, head_dim)
    keys, values = (normal(batch, kv_heads, keys_length, head_dim, seed=seed) for seed in (1, 2))
    bias = normal(batch, heads, length, keys_length, seed=3)
    expected = np.empty_like(queries)
    for head in range(heads):
        shared = head // (heads // kv_heads)  # Llama: heads 0, 1, ... of a group are neighbours
        scores = queries[:, head] @ keys[:, shared].swapaxes(1, 2) / np.sqrt(head_dim) + bias[:, head]
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        expected[:, head] = weights @ values[:, shared]
    ours = attend(*(tf.constant(part, tf.float32) for part in (queries, keys, values, bias)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)  # float32, sums of 8


@pytest.mark.parametrize("compiled", [False, True])
def test_attention_in_bfloat16_sums_long_rows(compiled):
    length = 2_048  # a bfloat16 sum of ones stops at 256
    like = {"shape": (1, 1, length, 2), "dtype": tf.bfloat16}
    queries, values = tf.zeros((1, 1, 1, 2), tf.bfloat16), tf.ones(**like)
    run = tf.function(attend, jit_compile=True) if compiled else attend
    mixed = run(queries, tf.zeros(**like), values, tf.zeros((1, 1, 1, length), tf.bfloat16))
    np.testing.assert_allclose(tf.cast(mixed, tf.float32), 1, rtol=2**-7)  # bfloat16


def attention(**options):
    sizes = {"num_heads": 6, "num_kv_heads": 3, "head_dim": 4}
    rest = {
        "qk_norm": False,
        "learned_rotations": "none",
        "layout": "half",
        "norm_epsilon": 1e-5,
        "input_stddev": 0.02,
        "output_stddev": 0.02,
    }
    return Attention(**(sizes | rest | {"dtype": "float32", "name": "attention"} | options))


def test_qk_norm_makes_scores_independent_of_the_size_of_the_input():
    x, bias = tf.constant(normal(2, 5, 24), tf.float32), tf.zeros((1, 1, 5, 5))
    tables = RotaryEmbedding(4, layout="half").tables(tf.range(5))
    for qk_norm in (True, False):
        layer = attention(qk_norm=qk_norm, norm_epsilon=1e-12)
        once, _ = layer(x, bias=bias, tables=tables)
        layer.qkv.kernel.assign(50 * layer.qkv.kernel)
        often, _ = layer(x, bias=bias, tables=tables)
        # Values are not normalised: they grow by 50, and the weights stay.
        same = np.allclose(often / 50, once, rtol=1e-4, atol=1e-7)  # float32, values near 1e-3
        assert same == qk_norm


def test_qk_norm_has_a_gain_each_for_queries_and_keys():
    layer = attention(qk_norm=True)
    layer(tf.zeros((1, 2, 24)), bias=tf.zeros((1, 1, 2, 2)), tables=None)
    names = {weight.path: tuple(weight.shape) for weight in layer.weights if "norm" in weight.path}
    assert names == {"attention/query_norm/scale": (4,), "attention/key_norm/scale": (4,)}


def test_the_rotary_table_reaches_the_rotation_in_float32(monkeypatch):
    seen = set()

    def recording(x, table, *, layout):
        seen.add((x.dtype.name, table.dtype.name))
        return x

    monkeypatch.setattr(models.layers, "rotate", recording)
    sizes = {"num_heads": 6, "num_kv_heads": 3, "head_dim": 4, "mlp_dim": 20, "qk_norm": True}
    rest = {
        "learned_rotations": "none",
        "layout": "half",
        "norm_epsilon": 1e-5,
        "input_stddev": 0.02,
        "output_stddev": 0.02,
        "dropout_rate": 0.0,
    }
    block = Block(**sizes, **rest, dtype=keras.DTypePolicy("mixed_bfloat16"), name="block")
    tables = RotaryEmbedding(4, layout="half").tables(tf.range(5))
    block(tf.zeros((2, 5, 24), tf.bfloat16), bias=tf.zeros((1, 1, 5, 5), tf.bfloat16), tables=tables)
    assert seen == {("bfloat16", "complex64")}


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_dropout_drops_at_its_rate_and_preserves_the_mean(rate, dtype):
    x = tf.ones((200, 1_000), dtype)
    dropped = tf.cast(dropout(x, rate, SEED), tf.float32).numpy()
    deviation = np.sqrt(rate * (1 - rate) / dropped.size)
    assert abs(np.mean(dropped == 0) - rate) < 5 * deviation
    kept = dropped[dropped != 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-6 if dtype == tf.float32 else 2**-7)
    # Each feature of each row on its own: neither whole columns nor whole rows.
    assert 0 < np.mean(dropped == 0, axis=0).std() < 0.1
    assert 0 < np.mean(dropped == 0, axis=1).std() < 0.1


def test_dropout_is_a_function_of_its_seed_alone():
    x = tf.constant(normal(3, 5, 8), tf.float32)
    once = dropout(x, 0.3, SEED)
    np.testing.assert_array_equal(dropout(x, 0.3, SEED), once)
    assert np.any(dropout(x, 0.3, tf.constant([3, 5])) != once)
    in_a_graph = tf.function(lambda x, seed: dropout(x, 0.3, seed))
    np.testing.assert_allclose(in_a_graph(x, SEED), once, rtol=1e-6)  # the same mask; float32


def test_dropout_under_xla_is_a_function_of_its_seed_alone():
    # XLA draws other numbers than the kernels do.
    compiled = tf.function(lambda x, seed: dropout(x, 0.3, seed), jit_compile=True)
    x = tf.ones((300, 100))
    once = compiled(x, SEED)
    np.testing.assert_array_equal(compiled(x, SEED), once)
    assert np.any(compiled(x, SEED + 1) != once)
    assert abs(np.mean(once == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 30_000)


def test_dropout_without_a_seed_or_a_rate_is_the_identity():
    x = tf.constant(normal(3, 5), tf.float32)
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, SEED) is x


def test_each_part_folds_a_seed_of_its_own():
    seeds = {tuple(fold_in(seed, part).numpy()) for seed in (SEED, SEED + 1) for part in range(10)}
    assert len(seeds) == 20
    assert fold_in(None, 3) is None
