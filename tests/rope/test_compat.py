import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding, apply_learned_rotations, apply_rotary_emb, broadcat, rotate_half
from rope.rotation import doubled, rotary_angles
from tests.rope.reference import angles_of, language, normal, turned

LAYOUTS = ("interleaved", "half")


def angles_for(length, dim, layout="interleaved"):
    return doubled(rotary_angles(tf.range(length), language(dim)), layout=layout)


def test_rotate_half_rotates_each_pair_by_90_degrees():
    x = tf.constant([1.0, 2, 3, 4])
    np.testing.assert_array_equal(rotate_half(x), [-2, 1, -4, 3])
    np.testing.assert_array_equal(rotate_half(x, layout="half"), [-3, -4, 1, 2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_doubled_angles_rotate_like_complex_numbers(layout):
    t = normal(2, 3, 5, 8)
    expected = turned(t, angles_of(range(5), language(8)), layout)
    actual = apply_rotary_emb(angles_for(5, 8, layout), t, layout=layout)
    np.testing.assert_allclose(actual, expected, atol=2e-6)  # float32


def test_features_outside_the_rotated_ones_pass_through_unscaled():
    t = normal(3, 5, 12)
    rotated = apply_rotary_emb(angles_for(5, 6), t, start_index=4, scale=3.0)
    np.testing.assert_array_equal(rotated[..., :4], t[..., :4])
    np.testing.assert_array_equal(rotated[..., 10:], t[..., 10:])
    expected = 3 * turned(t[..., 4:10], angles_of(range(5), language(6)))
    np.testing.assert_allclose(rotated[..., 4:10], expected, atol=6e-6)


@pytest.mark.parametrize("batch", [2, 9])
def test_the_batch_axis_of_three_dimensional_angles_is_not_cut(batch):
    """rotary-embedding-torch takes freqs[-length:] of it; here batch 9 is above length 4."""
    positions = np.arange(batch)[:, None] * 10 + np.arange(4)
    t, freqs = normal(batch, 4, 8), RotaryEmbedding(8)(positions)
    expected = turned(t, angles_of(positions, language(8)))
    np.testing.assert_allclose(apply_rotary_emb(freqs, t), expected, atol=2e-5)  # float32 near 80 rad


def test_the_last_rows_of_two_dimensional_angles_or_of_freqs_seq_dim_are_used():
    t = normal(3, 2, 5, 8)
    freqs = angles_for(7, 8)[tf.newaxis, tf.newaxis]
    expected = turned(t, angles_of(range(2, 7), language(8)))
    np.testing.assert_allclose(apply_rotary_emb(angles_for(7, 8), t), expected, atol=2e-6)
    for angles, axis in ((freqs, 2), (freqs, -2), (angles_for(7, 8), 0), (angles_for(7, 8), -2)):
        np.testing.assert_allclose(apply_rotary_emb(angles, t, freqs_seq_dim=axis), expected, atol=2e-6)


def test_the_sequence_axis_may_precede_the_heads():
    # 5 heads and a length of 5: shapes do not reveal a wrong axis.
    t = normal(2, 5, 5, 8)
    expected = turned(t.swapaxes(1, 2), angles_of(range(5), language(8))).swapaxes(1, 2)
    np.testing.assert_allclose(apply_rotary_emb(angles_for(5, 8), t, seq_dim=-3), expected, atol=2e-6)
    np.testing.assert_allclose(apply_rotary_emb(angles_for(5, 8), t, seq_dim=1), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("freqs_shape", "t_shape", "arguments", "message"),
    [
        ((5, 8), (2, 5, 12), {"start_index": 5}, r"features \[5, 13\) are to be rotated, but t has 12"),
        ((4, 8), (2, 5, 8), {}, "does not match the features"),
        ((1, 4, 8), (2, 5, 8), {"freqs_seq_dim": 1}, "a row for each of the 5 positions, got 4"),
        ((5, 7), (2, 5, 8), {}, "last axis of x must be even"),
        ((5, 8), (2, 5, 8), {"freqs_seq_dim": 4}, "seq_dim must be an axis before the last, got 4"),
        ((3, 5, 8), (2, 5, 8), {}, "do not match the features"),
        ((3, 5, 8), (2, 15, 8), {}, "flatten its axes in both or in neither"),
        ((5, 8), (2, 5, 8), {"seq_dim": -1}, "seq_dim must be an axis before the last"),
    ],
)
def test_angles_that_do_not_fit_are_refused(freqs_shape, t_shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        apply_rotary_emb(tf.zeros(freqs_shape), tf.zeros(t_shape), **arguments)


def test_angles_in_half_precision_are_refused_and_queries_rounded_once():
    t = tf.cast(normal(3, 5, 12), tf.bfloat16)
    exact = apply_rotary_emb(angles_for(5, 8), tf.cast(t, tf.float32))
    np.testing.assert_array_equal(tf.cast(exact, tf.bfloat16), apply_rotary_emb(angles_for(5, 8), t))
    with pytest.raises(TypeError, match="angles must be float32, got bfloat16"):
        apply_rotary_emb(tf.zeros((5, 8), tf.bfloat16), tf.zeros((2, 5, 8)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_learned_rotations_rotate_consecutive_pairs_from_the_start_index(layout):
    t, rotations = normal(2, 5, 8), tf.cast(normal(2, 5, 2, seed=1), tf.bfloat16)  # becomes float32
    rotated = apply_learned_rotations(rotations, t, start_index=3, layout=layout)
    expected = turned(t[..., 3:], np.float64(tf.cast(rotations, tf.float64)), layout)
    np.testing.assert_allclose(rotated[..., 3:], expected, atol=2e-6)
    np.testing.assert_array_equal(rotated[..., :3], t[..., :3])


def test_frequency_ranges_multiply_learned_rotations():
    t, rotations = normal(2, 5, 12), normal(2, 5, 2, seed=1)
    ranges = np.array([1.0, 0.1, 0.01])
    angles = np.stack([rotations[..., r] * f for r in range(2) for f in ranges], axis=-1)
    rotated = apply_learned_rotations(rotations, t, freq_ranges=ranges)
    np.testing.assert_allclose(rotated, turned(t, angles), atol=2e-6)


def test_broadcat_broadcasts_axes_of_size_one_and_concatenates_dim():
    first, second = normal(1, 3, 1, 4), normal(1, 1, 5, 2)
    joined = broadcat((first, second))
    assert joined.shape == (1, 3, 5, 6)
    np.testing.assert_array_equal(joined[0, 2, 4], np.concatenate([first[0, 2, 0], second[0, 0, 4]]))
    assert broadcat((normal(2, 1), normal(3, 4)), dim=0).shape == (5, 4)
    assert broadcat((normal(1, 4), normal(3, 4)), dim=-2).shape == (4, 4)
    traced = tf.function(broadcat, [(tf.TensorSpec((None, 1, 4)), tf.TensorSpec((1, None, 2)))])
    assert traced((normal(3, 1, 4), normal(1, 5, 2))).shape == (3, 5, 6)
    for shapes, message in ((((2, 4), (3, 4)), "Incompatible shapes"), (((2, 4), (1, 2, 4)), "one rank")):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
            broadcat([tf.zeros(shape) for shape in shapes])
