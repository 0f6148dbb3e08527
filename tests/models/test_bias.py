import math

import numpy as np
import pytest
import tensorflow as tf

from models.grid import sinusoidal_embedding
from models.kernels import CausalMask, alibi_bias, alibi_slopes


def test_sinusoidal_embedding_equals_the_published_formula():
    # PE(pos, 2i) = sin(pos / 10000^(2i / dim)), PE(pos, 2i + 1) = cos(the same).
    positions, dim = [[0, 1, 7], [100, 257, 3]], 6
    expected = [
        [
            [
                (math.cos if feature % 2 else math.sin)(position / 10_000 ** ((feature - feature % 2) / dim))
                for feature in range(dim)
            ]
            for position in row
        ]
        for row in positions
    ]
    embedding = sinusoidal_embedding(tf.constant(positions), dim)
    assert embedding.dtype == tf.float32
    np.testing.assert_allclose(embedding, expected, atol=3e-5)  # float32 angles near 257


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


def test_causal_mask_hides_the_padding_of_each_row():
    bias = CausalMask("float32", padding=tf.constant([0, 2])).bias(tf.range(3), tf.range(3))
    assert bias.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(bias[0, 0] == 0, np.tri(3, dtype=bool))
    np.testing.assert_array_equal(bias[1, 0] == 0, [[False] * 3, [False] * 3, [False, False, True]])
    assert np.all(np.isfinite(tf.nn.softmax(bias)))  # every key is hidden from the queries of the padding


def test_causal_mask_hides_other_documents():
    segment_ids = tf.constant([[0, 0, 1, 1, 1], [4, 5, 5, 5, 6]])
    bias = CausalMask("float32", segment_ids=segment_ids).bias(tf.constant([2, 4]), tf.range(5))
    assert bias.shape == (2, 1, 2, 5)
    np.testing.assert_array_equal(
        bias[0, 0] == 0, [[False, False, True, False, False], [False, False, True, True, True]]
    )
    np.testing.assert_array_equal(bias[1, 0] == 0, [[False, True, True, False, False], [False] * 4 + [True]])


@pytest.mark.parametrize("block", [1, 3, 4, 11])
def test_blockwise_mask_shows_the_block_of_a_query_and_the_previous_one(block):
    queries, keys = np.arange(2, 11), np.arange(11)
    bias = CausalMask("float32", block=block).bias(tf.constant(queries), tf.constant(keys))
    assert bias.shape == (1, 1, 9, 11)
    blocks = [set(range(start, start + block)) for start in range(0, 11, block)]
    for row, query in enumerate(queries):
        (own,) = (number for number, columns in enumerate(blocks) if query in columns)
        expected = blocks[own] | (blocks[own - 1] if own else set())
        visible = {int(key) for key in keys if bias[0, 0, row, key] == 0}
        assert visible == {key for key in expected if key <= query}
