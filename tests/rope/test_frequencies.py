import numpy as np
import pytest

from rope.frequencies import language_frequencies


def test_language_frequencies_are_the_published_ones():
    np.testing.assert_allclose(language_frequencies(8), [1, 0.1, 0.01, 0.001], rtol=1e-15)  # float64
    np.testing.assert_allclose(
        language_frequencies(16, theta=100),  # theta^(-i / 8)
        [1, 0.562341325, 0.316227766, 0.177827941, 0.1, 0.0562341325, 0.0316227766, 0.0177827941],
        rtol=1e-8,  # of the digits written
    )


def test_language_frequencies_of_one_pair_are_one_turn_of_one_radian():
    np.testing.assert_array_equal(language_frequencies(2, theta=500_000.0), [1.0])


@pytest.mark.parametrize("dim", [-2, 0, 1, 7])
def test_language_frequencies_need_pairs(dim):
    with pytest.raises(ValueError, match=f"positive even number to form rotation pairs, got {dim}"):
        language_frequencies(dim)


@pytest.mark.parametrize("theta", [-1.0, 0.0, 1.0, float("nan")])
def test_language_frequencies_need_a_base_above_one(theta):
    with pytest.raises(ValueError, match=f"theta must be above 1, got {theta}"):
        language_frequencies(8, theta=theta)
