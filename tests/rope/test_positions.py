import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding, positions_from_mask, positions_from_segments
from rope.positions import positions_from_padding, shifted
from tests.rope.reference import normal


def test_the_first_real_token_of_a_padded_row_is_at_0():
    padding = tf.constant([0, 2, 4], tf.int64)
    positions = positions_from_padding(padding, 5)
    assert positions.dtype == tf.int32
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]])
    chunk = positions_from_padding(padding, tf.constant(2), start=tf.constant(3))  # after a cache of 3
    np.testing.assert_array_equal(chunk, positions[:, 3:])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_integers_of_any_width_do_not_overflow_with_an_offset(dtype):
    np.testing.assert_array_equal(shifted(tf.range(2), np.int64(2**40)), [2**40, 2**40 + 1])
    np.testing.assert_array_equal(shifted(np.array([0, 100], dtype), 40_000), [40_000, 40_100])


def test_masked_positions_count_real_tokens_wherever_the_padding_is():
    mask = [[0, 0, 1, 1, 1], [1, 1, 0, 1, 0]]
    np.testing.assert_array_equal(positions_from_mask(mask), [[0, 0, 0, 1, 2], [0, 1, 1, 2, 2]])
    np.testing.assert_array_equal(positions_from_mask(np.array(mask, bool)), positions_from_mask(mask))


def test_packed_documents_are_rotated_like_separate_ones():
    rotary = RotaryEmbedding(8)
    documents = [normal(size, 8, seed=size) for size in (4, 1, 3, 5)]
    packed = np.stack([np.concatenate(documents[:3]), np.concatenate([documents[3], documents[2]])])
    segments = [[7, 7, 7, 7, 2, 7, 7, 7], [1, 1, 1, 1, 1, 2, 2, 2]]
    positions = positions_from_segments(segments)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3, 0, 0, 1, 2], [0, 1, 2, 3, 4, 0, 1, 2]])
    rotated = rotary.rotate_queries_or_keys(packed, positions=positions)
    for row, start, document in ((0, 0, 0), (0, 4, 1), (0, 5, 2), (1, 0, 3), (1, 5, 2)):
        alone = rotary.rotate_queries_or_keys(documents[document])
        np.testing.assert_allclose(rotated[row, start : start + len(alone)], alone, atol=1e-6)


def test_segments_of_unknown_shape_run_in_a_graph_and_under_xla():
    segments = tf.constant([[3, 3, 1], [2, 5, 5]])
    spec = tf.TensorSpec((None, None), tf.int32)
    for compiled in (
        tf.function(positions_from_segments, input_signature=[spec]),
        tf.function(positions_from_segments, jit_compile=True),
    ):
        np.testing.assert_array_equal(compiled(segments), [[0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="segment_ids must be"):
        positions_from_segments([1, 1, 2])
