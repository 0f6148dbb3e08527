"""The transformer block: attention layer, dropout, and the routes of full and axial attention."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from models.attention import BlockOptions, LearnedRotations
from models.block import Block, dropout
from models.kernels import attend

SEED = np.array([3, 4], np.int32)
SIZES = {"dim": 24, "num_heads": 6, "num_kv_heads": 3, "head_dim": 4, "mlp_dim": 20}
STDDEVS = {"input_stddev": 0.5, "output_stddev": 0.5}


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def vision_block(attention, **options):
    sizes = {"dim": 8, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4, "mlp_dim": 12}
    shared = BlockOptions(attention=attention, **sizes, **STDDEVS)
    return Block(shared, dtype="float32", name="block", **options)


def apply(block, x, **options):
    """The output of a block without rotary positions."""
    count = len(block.attentions)
    return block(x, cos_sin=[None] * count, kernel=attend, **options)[0]


@pytest.mark.parametrize("kind", ["per_token", "cumulative"])
def test_learned_angles_are_linear_in_the_activations_and_summed_if_cumulative(kind):
    options = BlockOptions(**SIZES, **STDDEVS, learned_rotations=kind)
    layer, x = LearnedRotations(options, name="rotations"), normal(2, 5, 24)
    layer(x)
    layer.projection.kernel.assign(normal(24, 3 * 2))
    angles, _ = layer(x)  # (batch, kv_heads, length, head_dim / 2)
    expected = (x.numpy() @ layer.projection.kernel.numpy()).reshape(2, 5, 3, 2).swapaxes(1, 2)
    expected = np.cumsum(expected, axis=2) if kind == "cumulative" else expected
    np.testing.assert_allclose(angles, expected, atol=1e-4)  # float32, sums of 120


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize(("rate", "whole_examples"), [(0.01, False), (0.5, False), (0.1, True)])
def test_dropout_drops_features_or_examples_at_its_rate_and_preserves_the_mean(rate, whole_examples, dtype):
    x = tf.ones((5_000, 4, 5), dtype)
    dropped = tf.cast(dropout(x, rate, SEED, whole_examples=whole_examples), tf.float32).numpy()
    is_kept = dropped != 0
    np.testing.assert_allclose(dropped[is_kept], 1 / (1 - rate), rtol=1e-6 if dtype == tf.float32 else 2**-7)
    draws = is_kept[:, 0, 0] if whole_examples else is_kept
    assert abs(np.mean(~draws) - rate) < 5 * np.sqrt(rate * (1 - rate) / draws.size)
    is_whole = np.all(is_kept == is_kept[:, :1, :1], axis=(1, 2))
    assert np.all(is_whole) == whole_examples


def test_dropout_depends_on_its_seed_alone_eagerly_in_a_graph_and_under_xla():
    x = tf.ones((300, 100))
    expected = dropout(x, 0.3, SEED)
    in_graph = tf.function(lambda x, seed: dropout(x, 0.3, seed))
    np.testing.assert_allclose(in_graph(x, SEED), expected, rtol=1e-6)  # the same mask; float32
    # XLA draws other numbers than the eager kernels.
    in_xla = tf.function(lambda x, seed: dropout(x, 0.3, seed), jit_compile=True)
    for function in (partial(dropout, rate=0.3), in_graph, in_xla):
        first = function(x, seed=SEED)
        np.testing.assert_array_equal(function(x, seed=SEED), first)
        assert np.any(function(x, seed=SEED + 1) != first)
        assert abs(np.mean(first == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 30_000)


def test_dropout_without_a_seed_or_a_rate_is_the_identity():
    x = normal(3, 5)
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, SEED) is x


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_drop_path_adds_each_branch_of_an_example_whole_or_not_at_all(attention):
    """The later branches are zero, so an example is its input with or without the first branch."""
    x = normal(*((400, 15, 8) if attention == "full" else (400, 3, 5, 8)))
    plain, dropping = vision_block(attention), vision_block(attention, drop_path_rate=0.5)
    apply(plain, x), apply(dropping, x)
    for block in (plain, dropping):
        block.mlp.down.kernel.assign(tf.zeros((12, 8)))
        for later in block.attentions[1:]:
            later.output_projection.kernel.assign(tf.zeros((8, 8)))
    dropping.set_weights(plain.get_weights())
    branch = (apply(plain, x) - x).numpy().reshape(400, -1)
    added = (apply(dropping, x, seed=SEED) - x).numpy().reshape(400, -1)
    factor = np.sum(added * branch, axis=1) / np.sum(branch**2, axis=1)
    is_kept = factor > 1
    assert 140 < is_kept.sum() < 260  # binomial: 200 expected, standard deviation 10
    np.testing.assert_allclose(added[is_kept], 2 * branch[is_kept], atol=1e-5)  # float32
    assert not added[~is_kept].any()
