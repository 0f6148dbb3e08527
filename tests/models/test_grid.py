import numpy as np
import pytest
import tensorflow as tf

from models.grid import (
    axial_table,
    cubic_weights,
    extract_patches,
    mixed_table,
    prepend_unrotated,
    resample_grid,
    sinusoidal_grid,
)
from rope.axial import MixedRotaryEmbedding
from rope.embedding import RotaryEmbedding
from rope.rotation import rotate


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def table_of(kind, rows, columns, *, factor=(1.0, 1.0), layout="interleaved"):
    if kind == "mixed":
        mixed = MixedRotaryEmbedding(3, 16, seed=5, layout=layout)
        return mixed_table(mixed, rows, columns, interpolate_factor=factor)
    axes = [RotaryEmbedding(8, theta=100.0, interpolate_factor=f, layout=layout) for f in factor]
    return axial_table(axes, rows, columns, coordinates="cells")


def test_patches_are_squares_in_row_order():
    images = normal(2, 6, 10, 3)
    patches = extract_patches(tf.constant(images), 2).numpy()
    assert patches.shape == (2, 3, 5, 12)
    for row, column in np.ndindex(3, 5):
        square = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(patches[:, row, column], square.reshape(2, 12))


def test_rows_and_columns_have_separate_embeddings():
    rows, columns = RotaryEmbedding(8, theta=50.0), RotaryEmbedding(8, interpolate_factor=3.0)
    table = axial_table([rows, columns], 3, 5, coordinates="cells")
    frequencies = 50.0 ** (-np.arange(4) / 4), 10_000.0 ** (-np.arange(4) / 4) / 3
    for index, (row, column) in enumerate(np.ndindex(3, 5)):
        angles = np.concatenate([row * frequencies[0], column * frequencies[1]])
        np.testing.assert_allclose(table[index], np.exp(1j * angles), atol=1e-6)  # float32, below 5 rad


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_each_axis_has_its_own_attention_factor(layout):
    factors = 1.5, 0.25
    axes = [
        RotaryEmbedding(
            8,
            layout=layout,
            scaling={
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 4,
                "attention_factor": factor,
            },
        )
        for factor in factors
    ]
    table = axial_table(axes, 3, 5, coordinates="cells")
    np.testing.assert_allclose(np.abs(table), np.tile(np.repeat(factors, 4), (15, 1)), rtol=1e-5)  # float32


@pytest.mark.parametrize("kind", ["axial", "mixed"])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_scores_depend_on_the_difference_of_the_patches(kind, layout):
    table, heads = table_of(kind, 9, 11, layout=layout), 3
    q, k = normal(heads, 1, 16, seed=1), normal(heads, 1, 16, seed=2)

    def score(query, key):
        def at(x, point):
            row = point[0] * 11 + point[1]
            return rotate(x, table[..., row : row + 1, :], layout=layout)

        return np.sum(at(q, query).numpy() * at(k, key).numpy(), axis=(1, 2))

    base = score((1, 4), (3, 2))
    for down, right in ((1, 0), (0, 1), (4, 6)):
        moved = score((1 + down, 4 + right), (3 + down, 2 + right))
        np.testing.assert_allclose(moved, base, atol=1e-4)  # float32, angles near 10
    for other in ((3, 4), (2, 2), (2, 3)):  # other rows, other columns, and the two swapped
        assert np.all(abs(score((1, 4), other) - base) > 1e-2)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_interpolation_by_two_has_the_trained_angles_at_every_other_patch(kind):
    trained, finer = table_of(kind, 3, 5), table_of(kind, 6, 10, factor=(2.0, 2.0))
    every_other = np.reshape(finer, (*trained.shape[:-2], 6, 10, 8))[..., ::2, ::2, :]
    np.testing.assert_allclose(every_other, np.reshape(trained, every_other.shape), atol=2e-6)  # float32


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_interpolation_of_one_axis_leaves_the_other_unchanged(kind):
    plain, only_rows = (
        np.reshape(table_of(kind, 3, 5, factor=factor), (-1, 3, 5, 8)) for factor in ((1, 1), (2, 1))
    )
    np.testing.assert_allclose(only_rows[:, 0], plain[:, 0], atol=1e-6)
    np.testing.assert_allclose(only_rows[:, 2, 0], plain[:, 1, 0], atol=1e-6)
    assert np.abs(only_rows[:, 1] - plain[:, 1]).max() > 0.1


def test_the_first_token_is_not_rotated():
    x = normal(2, 3, 16, 16)
    rotated = rotate(x, prepend_unrotated(table_of("mixed", 3, 5)))
    np.testing.assert_array_equal(rotated[:, :, 0], x[:, :, 0])
    expected = rotate(x[:, :, 1:], table_of("mixed", 3, 5))
    np.testing.assert_array_equal(rotated[:, :, 1:], expected)


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
