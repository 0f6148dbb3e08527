import math

import numpy as np
import pytest
import tensorflow as tf

from models.bias import alibi_bias, alibi_slopes, block_bias, causal_bias, sinusoidal_embedding


def test_sinusoidal_embedding_is_that_of_the_paper():
    # PE(pos, 2i) = sin(pos / 10000^(2i / dim)), PE(pos, 2i + 1) = cos(the same).
    positions, dim = [0, 1, 7, 100, 257], 6
    expected = [
        [
            (math.sin if feature % 2 == 0 else math.cos)(position / 10_000 ** ((feature - feature % 2) / dim))
            for feature in range(dim)
        ]
        for position in positions
    ]
    ours = sinusoidal_embedding(tf.constant(positions), dim)
    assert ours.dtype == tf.float32
    np.testing.assert_allclose(ours, expected, atol=3e-5)  # float32 angles near 257


def test_sinusoidal_embedding_takes_positions_by_row():
    rows = tf.constant([[0, 1, 2], [5, 3, 9]])
    ours = sinusoidal_embedding(rows, 4)
    assert ours.shape == (2, 3, 4)
    np.testing.assert_allclose(ours[1], sinusoidal_embedding(rows[1], 4), atol=1e-6)  # float32


def test_alibi_slopes_are_the_published_ones():
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


def test_alibi_bias_tells_distances_256_and_257_apart():
    bias = alibi_bias(tf.constant([257]), tf.range(2), 8)
    assert bias[0, 0, 0] != bias[0, 0, 1]


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_causal_bias_hides_later_columns(dtype):
    bias = causal_bias(tf.constant([1, 2]), tf.range(4), None, dtype)
    assert (bias.shape, bias.dtype) == ((1, 1, 2, 4), dtype)
    np.testing.assert_array_equal(bias[0, 0] == 0, [[True, True, False, False], [True, True, True, False]])
    weights = tf.nn.softmax(bias + tf.cast(50, dtype))
    np.testing.assert_array_equal(weights[0, 0, 0], [0.5, 0.5, 0, 0])


def test_causal_bias_hides_the_padding_of_each_row():
    bias = causal_bias(tf.range(3), tf.range(3), tf.constant([0, 2]), tf.float32)
    assert bias.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(bias[0, 0] == 0, np.tri(3, dtype=bool))
    np.testing.assert_array_equal(
        bias[1, 0] == 0, [[False, False, False], [False, False, False], [False, False, True]]
    )
    assert np.all(np.isfinite(tf.nn.softmax(bias)))  # the queries of the padding see nothing


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("block", [1, 3, 4, 11])
def test_block_bias_shows_the_block_of_a_query_and_the_one_before(block, dtype):
    queries, keys = np.arange(2, 11), np.arange(11)
    bias = block_bias(tf.constant(queries), tf.constant(keys), block, dtype)
    assert (bias.shape, bias.dtype) == ((1, 1, 9, 11), dtype)
    blocks = [set(range(start, start + block)) for start in range(0, 11, block)]
    for row, query in enumerate(queries):
        (own,) = (number for number, columns in enumerate(blocks) if query in columns)
        shown = blocks[own] | (blocks[own - 1] if own else set())
        visible = {int(key) for key in keys if bias[0, 0, row, key] == 0 and key <= query}
        assert visible == {key for key in shown if key <= query}


def test_a_block_without_columns_is_refused():
    with pytest.raises(ValueError, match="attention_block must be at least 1, got 0"):
        block_bias(tf.range(3), tf.range(3), 0, tf.float32)
