import numpy as np
import pytest
import tensorflow as tf

from models.layers import drop_path
from models.vision_block import VisionBlock, attend_within_columns, attend_within_rows

SEED = tf.constant([3, 4], tf.int32)


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def block_of(attention, **options):
    sizes = {"num_heads": 2, "head_dim": 4, "mlp_dim": 12, "norm_epsilon": 1e-5}
    rest = {
        "qk_norm": False,
        "layout": "half",
        "learned_rotations": "none",
        "num_unrotated": 0,
        "input_stddev": 0.5,
    }
    rates = {"output_stddev": 0.5, "dropout_rate": 0.0, "drop_path_rate": 0.0}
    return VisionBlock(attention=attention, **(sizes | rest | rates | options), dtype="float32", name="block")


def changed_by(function, x, row, column):
    """(rows, columns): the patches whose output changes with one patch of the input."""
    other = x.numpy()
    other[:, row, column] += 1
    return np.any(function(x).numpy() != function(tf.constant(other)).numpy(), axis=(0, -1))


def test_attention_within_an_axis_reaches_the_row_or_the_column_alone():
    x, attention = normal(2, 3, 5, 8), block_of("axial").attentions[0]
    within_row, within_column = np.zeros((3, 5), bool), np.zeros((3, 5), bool)
    within_row[1], within_column[:, 3] = True, True
    reached = changed_by(lambda x: attend_within_rows(attention, x, None), x, 1, 3)
    np.testing.assert_array_equal(reached, within_row)
    reached = changed_by(lambda x: attend_within_columns(attention, x, None), x, 1, 3)
    np.testing.assert_array_equal(reached, within_column)


def test_rows_and_then_columns_reach_every_patch():
    x, block = normal(2, 3, 5, 8), block_of("axial")
    assert changed_by(lambda x: block(x, tables=(None, None)), x, 1, 3).all()
    # Only through its column: without attention within rows, the other columns are not reached.
    block(x, tables=(None, None))
    row_attention = block.attentions[0]
    row_attention.output_projection.kernel.assign(tf.zeros((8, 8)))
    reached = changed_by(lambda x: block(x, tables=(None, None)), x, 1, 3)
    np.testing.assert_array_equal(reached, np.arange(5)[np.newaxis] == np.full((3, 1), 3))


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention must be one of full, axial; got 'rows'"):
        block_of("rows")


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_stochastic_depth_drops_whole_examples_and_preserves_the_mean(rate, dtype):
    x = tf.ones((10_000, 3, 5), dtype)
    dropped = tf.cast(drop_path(x, rate, SEED), tf.float32).numpy()
    assert np.all(dropped == dropped[:, :1, :1])
    kept = dropped[:, 0, 0] != 0
    assert abs(np.mean(~kept) - rate) < 5 * np.sqrt(rate * (1 - rate) / 10_000)
    np.testing.assert_allclose(dropped[kept], 1 / (1 - rate), rtol=1e-6 if dtype == tf.float32 else 2**-7)


def test_stochastic_depth_without_a_seed_or_a_rate_is_the_identity():
    x = normal(3, 5)
    assert drop_path(x, 0.3, None) is x
    assert drop_path(x, 0.0, SEED) is x


@pytest.mark.parametrize("attention", ["full", "axial"])
def test_each_branch_of_each_example_is_added_whole_or_not_at_all(attention):
    """With the later branches silent, an example is what the first branch makes of it, or itself."""
    shape, count = ((400, 15, 8), 1) if attention == "full" else ((400, 3, 5, 8), 2)
    x, tables = normal(*shape), (None,) * count
    plain, dropping = block_of(attention), block_of(attention, drop_path_rate=0.5)
    plain(x, tables=tables), dropping(x, tables=tables)
    for block in (plain, dropping):
        block.mlp.down.kernel.assign(tf.zeros((12, 8)))
        for later in block.attentions[1:]:
            later.output_projection.kernel.assign(tf.zeros((8, 8)))
    for mine, theirs in zip(dropping.weights, plain.weights, strict=True):
        mine.assign(theirs)
    added = (plain(x, tables=tables) - x).numpy().reshape(400, -1)
    scaled = (dropping(x, tables=tables, seed=SEED) - x).numpy().reshape(400, -1)
    share = np.sum(scaled * added, axis=1) / np.sum(added**2, axis=1)
    kept = share > 1
    assert 140 < kept.sum() < 260  # 200 expected, 10 the deviation
    np.testing.assert_allclose(scaled[kept], 2 * added[kept], atol=1e-5)  # float32
    assert not scaled[~kept].any()
