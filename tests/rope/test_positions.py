import numpy as np
import pytest
import tensorflow as tf

from rope.positions import positions_from_padding, shifted


def test_the_first_real_token_of_a_padded_row_is_at_0():
    positions = positions_from_padding(tf.constant([0, 2, 4]), 5)
    assert positions.dtype == tf.int32
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]])


def test_positions_go_on_where_a_cached_decode_stands():
    whole = positions_from_padding(tf.constant([0, 2]), 7)
    chunk = positions_from_padding(tf.constant([0, 2]), tf.constant(3), start=tf.constant(4))
    np.testing.assert_array_equal(chunk, whole[:, 4:7])


@pytest.mark.parametrize("padding", [[1, 3], np.array([1, 3]), tf.constant([1, 3], tf.int64)])
def test_padding_may_be_counted_in_any_integers(padding):
    np.testing.assert_array_equal(positions_from_padding(padding, 4), [[0, 0, 1, 2], [0, 0, 0, 0]])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_narrow_integers_do_not_wrap_at_their_offset(dtype):
    np.testing.assert_array_equal(shifted(np.array([0, 100], dtype), 40_000), [40_000, 40_100])


def test_an_offset_beyond_32_bits_is_kept():
    np.testing.assert_array_equal(shifted(tf.range(2), np.int64(2**40)), [2**40, 2**40 + 1])
