import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from rope.embedding import RotaryEmbedding


@pytest.fixture
def mixed_bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_embedding_rotates_from_position_0(layout, by_complex_numbers):
    x = normal(2, 3, 5, 8)
    ours = RotaryEmbedding(8, theta=100.0, layout=layout).rotate_queries_or_keys(x)
    angles = np.arange(5)[:, np.newaxis] / 100.0 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(ours, by_complex_numbers(x, angles, layout), atol=2e-6)  # float32 near 4


@pytest.mark.parametrize("offset", [7, tf.constant(7)])
def test_an_offset_is_the_same_as_explicit_positions(offset):
    rotary, x = RotaryEmbedding(8), normal(2, 3, 5, 8)
    by_offset = rotary.rotate_queries_or_keys(x, offset=offset)
    np.testing.assert_array_equal(by_offset, rotary.rotate_queries_or_keys(x, positions=np.arange(7, 12)))
    np.testing.assert_array_equal(
        by_offset, rotary.rotate_queries_or_keys(x, positions=[5, 6, 7, 8, 9], offset=2)
    )
    assert np.max(abs(by_offset - rotary.rotate_queries_or_keys(x))) > 0.1


def test_positions_may_differ_by_example():
    rotary, x = RotaryEmbedding(8), normal(2, 3, 5, 8)
    positions = np.array([[0, 1, 2, 3, 4], [9, 7, 100, 0, 31]])
    together = rotary.rotate_queries_or_keys(x, positions=positions[:, np.newaxis])  # (batch, 1, length)
    for row in range(2):
        alone = rotary.rotate_queries_or_keys(x[row], positions=positions[row])
        np.testing.assert_allclose(together[row], alone, atol=1e-6)  # float32


def test_interpolate_factor_divides_positions():
    plain, interpolated = RotaryEmbedding(8), RotaryEmbedding(8, interpolate_factor=2.0)
    x, positions = normal(2, 3, 5, 8), np.array([0, 1, 2, 40, 99])
    np.testing.assert_array_equal(  # a power of two scales exactly
        interpolated.rotate_queries_or_keys(x, positions=2 * positions),
        plain.rotate_queries_or_keys(x, positions=positions),
    )
    third = RotaryEmbedding(8, interpolate_factor=3.0)(3 * positions)
    np.testing.assert_allclose(third, plain(positions), rtol=2e-7)  # float32


def test_float_and_integer_positions_give_the_same_angles():
    rotary = RotaryEmbedding(8)
    np.testing.assert_array_equal(rotary(tf.constant([3, 257])), rotary(tf.constant([3.0, 257.0])))
    between = rotary.angles(tf.constant([0.5]))
    np.testing.assert_allclose(between[0], [0.5, 0.05, 0.005, 0.0005], rtol=1e-6)  # float32


def test_everything_stays_float32_under_a_mixed_policy(mixed_bfloat16, by_complex_numbers):
    rotary = RotaryEmbedding(8)
    angles = rotary(tf.constant([256.0, 257.0]))[:, ::2]  # of each pair
    assert angles.dtype == tf.float32
    np.testing.assert_array_equal(angles[:, 0], [256, 257])  # one number in bfloat16
    assert rotary.table(tf.constant([256.0, 257.0])).dtype == tf.complex64
    x = normal(2, 3, 2, 8)
    ours = rotary.rotate_queries_or_keys(x, positions=tf.constant([256.0, 257.0]))
    expected = by_complex_numbers(x, angles, "interleaved")
    np.testing.assert_allclose(ours, expected, atol=2e-6)  # float32


def test_queries_in_bfloat16_stay_bfloat16(mixed_bfloat16):
    x = normal(2, 3, 5, 8)
    rotary = RotaryEmbedding(8)
    ours = rotary.rotate_queries_or_keys(tf.cast(x, tf.bfloat16), offset=300)
    assert ours.dtype == tf.bfloat16
    exact = rotary.rotate_queries_or_keys(tf.cast(tf.cast(x, tf.bfloat16), tf.float32), offset=300)
    np.testing.assert_array_equal(ours, tf.cast(exact, tf.bfloat16))


def test_one_table_serves_queries_and_keys():
    rotary = RotaryEmbedding(8, layout="half")
    queries, keys = normal(2, 6, 5, 8), normal(2, 3, 5, 8, seed=1)
    table = rotary.table(tf.range(5) + 4)
    np.testing.assert_array_equal(
        rotary.rotate(queries, table), rotary.rotate_queries_or_keys(queries, offset=4)
    )
    np.testing.assert_array_equal(rotary.rotate(keys, table), rotary.rotate_queries_or_keys(keys, offset=4))


def test_one_trace_serves_every_length_and_offset():
    rotary, traces = RotaryEmbedding(8), 0

    @tf.function(input_signature=[tf.TensorSpec((2, None, 8)), tf.TensorSpec((), tf.int32)])
    def traced(x, offset):
        nonlocal traces
        traces += 1
        return rotary.rotate_queries_or_keys(x, offset=offset)

    for length, offset in ((5, 0), (1, 5), (9, 1)):
        x = normal(2, length, 8)
        eager = rotary.rotate_queries_or_keys(x, offset=offset)
        np.testing.assert_allclose(traced(x, tf.constant(offset)), eager, atol=1e-6)  # float32
    assert traces == 1


def test_config_makes_the_same_embedding_again():
    rotary = RotaryEmbedding(6, theta=500.0, layout="half", interpolate_factor=4.0, name="mine")
    config = json.loads(json.dumps(rotary.get_config()))
    again = RotaryEmbedding.from_config(config)
    assert again.get_config() == rotary.get_config()
    assert again.name == "mine"
    x = normal(2, 5, 6)
    np.testing.assert_array_equal(
        again.rotate_queries_or_keys(x, offset=9), rotary.rotate_queries_or_keys(x, offset=9)
    )


def test_an_embedding_has_no_weights():
    rotary = RotaryEmbedding(8)
    rotary.rotate_queries_or_keys(normal(2, 3, 5, 8))
    assert rotary.weights == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"dim": 7}, "positive even number"),
        ({"theta": 1.0}, "theta must be above 1"),
        ({"layout": "neox"}, "one of interleaved, half; got 'neox'"),
        ({"interpolate_factor": 0.5}, "interpolate_factor must be >= 1, got 0.5"),
        ({"interpolate_factor": float("nan")}, "interpolate_factor must be >= 1, got nan"),
    ],
)
def test_a_bad_argument_is_refused(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        RotaryEmbedding(**({"dim": 8} | arguments))


def test_positions_in_bfloat16_are_refused():
    with pytest.raises(TypeError, match="positions must be integers or float32, got bfloat16"):
        RotaryEmbedding(8).rotate_queries_or_keys(
            normal(2, 3, 2, 8), positions=tf.constant([256, 257], tf.bfloat16)
        )


@pytest.mark.parametrize("positions", [[0, 1, 2], [4], 4])
def test_another_number_of_positions_is_refused(positions):
    # One position would broadcast over all tokens.
    with pytest.raises(ValueError, match="needs 5 positions"):
        RotaryEmbedding(8).rotate_queries_or_keys(normal(2, 3, 5, 8), positions=positions)
