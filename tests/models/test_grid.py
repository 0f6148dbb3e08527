import numpy as np
import pytest
import tensorflow as tf

from models.grid import (
    cubic_weights,
    extract_patches,
    prepend_unrotated,
    resample_grid,
    sinusoidal_grid,
)
from rope.axial import MixedRotaryEmbedding
from rope.positions import grid_positions


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_patches_are_squares_in_row_order():
    images = normal(2, 6, 10, 3)
    patches = extract_patches(tf.constant(images), 2).numpy()
    assert patches.shape == (2, 3, 5, 12)
    for row, column in np.ndindex(3, 5):
        square = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(patches[:, row, column], square.reshape(2, 12))


def test_the_first_token_is_not_rotated():
    x, mixed = normal(2, 3, 16, 16), MixedRotaryEmbedding(3, 16, seed=5)
    cos_sin = mixed.cos_sin(grid_positions(3, 5))
    rotated = mixed.rotate(x, prepend_unrotated(cos_sin))
    np.testing.assert_array_equal(rotated[:, :, 0], x[:, :, 0])
    np.testing.assert_array_equal(rotated[:, :, 1:], mixed.rotate(x[:, :, 1:], cos_sin))


def test_sinusoids_encode_the_row_in_one_half_and_the_column_in_the_other():
    grid = sinusoidal_grid(3, 5, 8).numpy()
    for row, column in np.ndindex(3, 5):
        expected = [f(place * w) for place in (row, column) for w in (1, 0.01) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(grid[row, column], expected, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(6, 10), (7, 9), (2, 3), (1, 1), (4, 2), (3, 20)])
def test_resampling_equals_that_of_images(rows, columns):
    embedding = normal(4, 6, 8)
    expected = tf.image.resize(embedding, (rows, columns), method="bicubic", antialias=True)
    ours = resample_grid(tf.constant(embedding), rows, columns)
    np.testing.assert_allclose(ours, expected, atol=1e-5)  # float32


def test_resampling_to_the_same_size_is_the_identity():
    np.testing.assert_array_equal(cubic_weights(7, 7), np.eye(7))
    embedding = tf.constant(normal(4, 6, 8))
    np.testing.assert_array_equal(resample_grid(embedding, 4, 6), embedding)
