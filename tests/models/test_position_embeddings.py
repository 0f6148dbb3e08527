import numpy as np
import pytest
import tensorflow as tf

from models.position_embeddings import resize_grid, sinusoidal_grid


def test_sinusoids_encode_the_row_in_one_half_and_the_column_in_the_other():
    grid = sinusoidal_grid(3, 5, 8).numpy()
    for row, column in np.ndindex(3, 5):
        expected = [f(place * w) for place in (row, column) for w in (1, 0.01) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(grid[row, column], expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(4, 7), (1, 3), (1, 1)])
@pytest.mark.parametrize(("rows", "columns"), [(4, 7), (7, 9), (2, 3), (1, 1), (3, 20)])
def test_resizing_equals_that_of_images_also_under_xla(grid, rows, columns):
    embedding = np.random.default_rng(0).normal(size=(*grid, 8)).astype(np.float32)
    expected = tf.image.resize(embedding, (rows, columns), method="bicubic", antialias=True)
    for jit_compile in (False, True):
        ours = tf.function(resize_grid, jit_compile=jit_compile)(embedding, rows, columns)
        np.testing.assert_allclose(ours, expected, atol=1e-5)  # float32
