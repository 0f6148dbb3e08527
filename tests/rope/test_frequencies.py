import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding
from rope.frequencies import language_frequencies, pixel_frequencies, rotary_dim
from tests.rope.reference import angles_of, normal, turned


def test_language_frequencies_are_the_published_ones():
    np.testing.assert_allclose(language_frequencies(8), [1, 0.1, 0.01, 0.001], rtol=1e-15)  # float64
    np.testing.assert_allclose(
        language_frequencies(16, theta=100),  # theta^(-i / 8)
        [1, 0.562341325, 0.316227766, 0.177827941, 0.1, 0.0562341325, 0.0316227766, 0.0177827941],
        rtol=1e-8,  # of the digits written
    )


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [  # rotary-embedding-torch and rotary-embedding-tensorflow
        ("linear", [3.14159265, 7.33038286, 11.51917306, 15.70796327]),
        ("log", [3.14159265, 5.37204787, 9.18607265, 15.70796327]),
    ],
)
def test_pixel_frequencies_are_those_of_their_library(spacing, expected):
    frequencies = RotaryEmbedding(8, freqs_for="pixel", pixel_spacing=spacing).frequencies
    np.testing.assert_allclose(frequencies, expected, rtol=1e-8)
    assert pixel_frequencies(6, max_freq=256.0, spacing=spacing)[-1] == pytest.approx(128 * np.pi)


def test_constant_frequencies_rotate_by_the_position_itself():
    rotary = RotaryEmbedding(4, freqs_for="constant", num_freqs=2)
    np.testing.assert_array_equal(rotary(tf.constant([0.5, 2.0])), [[0.5] * 4, [2.0] * 4])


def test_custom_frequencies_rotate_their_pairs():
    x, custom = normal(3, 5, 6), [0.5, 0.0, -2.0]
    rotary = RotaryEmbedding(6, custom_freqs=custom)
    expected = turned(x, angles_of(range(5), custom))
    np.testing.assert_allclose(rotary.rotate_queries_or_keys(x), expected, atol=2e-6)  # float32


def test_the_rotated_part_of_a_head_is_rounded_down_and_even():
    assert (rotary_dim(64, 0.25), rotary_dim(80, 0.4), rotary_dim(6, 1.0)) == (16, 32, 6)
    for head_dim, fraction in ((10, 0.3), (8, 0.1), (8, 0.0), (8, 1.5)):
        with pytest.raises(ValueError, match="got"):
            rotary_dim(head_dim, fraction)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim must be a positive even number to form rotation pairs, got 0"),
        ({"freqs_for": "langs"}, "freqs_for must be one of lang, pixel, constant"),
        ({"layout": "neox"}, "layout must be one of interleaved, half; got 'neox'"),
        ({"theta": 1.0}, "theta must be above 1"),
        ({"theta": float("nan")}, "theta must be above 1"),
        ({"interpolate_factor": 0.5}, "interpolate_factor must be >= 1, got 0.5"),
        ({"freqs_for": "constant"}, "num_freqs must give dim / 2 frequencies, got 1 for dim 8"),
        ({"custom_freqs": [1.0, 2.0]}, "custom_freqs must give dim / 2 frequencies"),
        ({"dim": 2, "custom_freqs": [float("nan")]}, "vector of finite numbers"),
        ({"custom_freqs": [[1.0, 2.0], [3.0, 4.0]]}, r"vector of finite .* got shape \(2, 2\)"),
        ({"dim": 4, "custom_freqs": [1.0, 2.0], "freqs_for": "pixel"}, "custom_freqs replaces freqs_for"),
        ({"freqs_for": "pixel", "max_freq": 1.0}, "max_freq must be >= 2"),
        ({"freqs_for": "pixel", "pixel_spacing": "cubic"}, "pixel_spacing must be one of linear, log"),
        ({"freqs_for": "pixel", "theta": 100.0}, "theta has no effect on pixel frequencies"),
        ({"dim": 4, "custom_freqs": [1.0, 2.0], "theta": 100.0}, "theta has no effect on custom"),
        ({"xpos_scale_base": 64.0}, "xpos_scale_base has no effect without use_xpos"),
    ],
)
def test_an_option_that_is_wrong_or_without_effect_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(**{"dim": 8} | arguments)
