import numpy as np
import pytest
import tensorflow as tf

from rope import AxialRotaryEmbedding, MixedRotaryEmbedding, RotaryEmbedding, apply_rotary_emb, grid_positions
from rope.axial import mixed_frequencies
from tests.rope.reference import angles_of, grid, language, normal, turned

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def axial(*options, **shared):
    """Embedding with 8 features for each of the `options` of an axis."""
    return AxialRotaryEmbedding([RotaryEmbedding(8, **(shared | axis)) for axis in options])


def flat(angles):
    return np.reshape(angles, (-1, angles.shape[-1]))


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("sizes", [(7,), (3, 5), (2, 3, 5)])
def test_each_axis_has_a_block_of_pairs(sizes, layout):
    rotary, x = axial(*[{}] * len(sizes), layout=layout), normal(2, 3, np.prod(sizes), 8 * len(sizes))
    positions = grid_positions(*sizes)
    expected = turned(x, flat(grid(*[angles_of(range(size), language(8)) for size in sizes])), layout)
    np.testing.assert_allclose(rotary.rotate(x, rotary.cos_sin(positions)), expected, atol=2e-6)
    np.testing.assert_allclose(apply_rotary_emb(rotary(positions), x, layout=layout), expected, atol=2e-6)
    freqs = RotaryEmbedding(8, layout=layout).get_axial_freqs(*sizes)  # the same on the unflattened grid
    np.testing.assert_array_equal(flat(freqs.numpy()), rotary(positions))


def test_each_axis_has_its_own_frequencies_scaling_and_attention_factor():
    rotary = axial({"theta": 50.0}, {"interpolate_factor": 3.0}, {"scaling": YARN, "theta": 100.0})
    yarn = RotaryEmbedding(8, theta=100.0, scaling=YARN).frequencies
    frequencies = language(8, 50.0), language(8) / 3, yarn
    x = normal(2, 3, 24, 24)
    blocks = [angles_of(range(size), each) for size, each in zip((2, 3, 4), frequencies, strict=True)]
    expected = turned(x, flat(grid(*blocks)))
    expected[..., 16:] *= 1.13862944  # 0.1 ln 4 + 1
    positions = grid_positions(2, 3, 4)
    np.testing.assert_allclose(rotary.rotate(x, rotary.cos_sin(positions)), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"cannot hold the attention factor 1\.139"):
        rotary(positions)


@pytest.mark.parametrize("seq_before_head_dim", [False, True])
def test_positions_of_a_grid_may_differ_by_example(seq_before_head_dim):
    rotary = axial({}, {"theta": 100.0}, seq_before_head_dim=seq_before_head_dim)
    positions = np.random.default_rng(0).uniform(0, 9, (2, 5, 2)).astype(np.float32)
    x = normal(2, 5, 5, 16)  # as many heads as tokens: shapes do not reveal a wrong axis
    angles = np.concatenate([angles_of(positions[..., i], language(8, (1e4, 1e2)[i])) for i in (0, 1)], -1)
    expected = turned(x, np.repeat(angles[:, np.newaxis], 5, axis=1))
    if seq_before_head_dim:
        x, expected = x.swapaxes(1, 2), expected.swapaxes(1, 2)
    np.testing.assert_allclose(rotary.rotate(x, rotary.cos_sin(positions)), expected, atol=1e-5)
    assert rotary.cos_sin(positions).shape == ((2, 5, 1, 8, 2) if seq_before_head_dim else (2, 1, 5, 8, 2))


def test_grid_positions_have_offsets_coordinates_and_an_order_of_axes():
    # rotary-embedding-torch returns the cached rows of offset 0 in its axial mode.
    np.testing.assert_array_equal(grid_positions(2, 2), [[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(grid_positions(2, 2, axis_order=(1, 0)), [[0, 0], [1, 0], [0, 1], [1, 1]])
    moved = np.reshape(grid_positions(3, 5, offsets=(6, 0.5)), (3, 5, 2))
    np.testing.assert_array_equal(moved, np.reshape(grid_positions(3, 5), (3, 5, 2)) + [6, 0.5])
    unit = grid_positions(3, 5, coordinates="unit", offsets=(0.5, 0))
    expected = [[row, column] for row in (-0.5, 0.5, 1.5) for column in np.linspace(-1, 1, 5)]
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    rotary = RotaryEmbedding(8)
    whole, part = rotary.get_axial_freqs(9, 9), rotary.get_axial_freqs(3, 5, offsets=(6, 2))
    np.testing.assert_array_equal(part, whole[6:, 2:7])


def test_a_grid_is_not_its_transpose():
    rotary = RotaryEmbedding(8)
    wide, tall = rotary.get_axial_freqs(3, 5).numpy(), rotary.get_axial_freqs(5, 3).numpy()
    assert np.abs(wide - tall.swapaxes(0, 1)).max() > 1
    columns_first = rotary.get_axial_freqs(5, 3, axis_order=(1, 0)).numpy()
    np.testing.assert_array_equal(wide, columns_first.swapaxes(0, 1))
    traced = tf.function(rotary.get_axial_freqs, input_signature=[tf.TensorSpec((), tf.int32)] * 2)
    np.testing.assert_allclose(traced(3, 5), wide, atol=1e-6)


def mixed_of(layout="interleaved", **options):
    return MixedRotaryEmbedding(3, 16, seed=5, layout=layout, **options)


@pytest.mark.parametrize("make", [lambda layout: axial({}, {}, theta=100.0, layout=layout), mixed_of])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_scores_depend_on_the_difference_of_the_cells(make, layout):
    rotary = make(layout=layout)
    q, k = normal(1, 3, 1, 16, seed=1), normal(1, 3, 1, 16, seed=2)

    def score(*cells):
        rotated = [rotary.rotate(x, rotary.cos_sin([cell])) for x, cell in zip((q, k), cells, strict=True)]
        return tf.reduce_sum(tf.multiply(*rotated), axis=(0, 2, 3)).numpy()  # of each head

    base = score((1, 4), (3, 2))
    for down, right in ((1, 0), (0, 1), (4, 6)):
        moved = score((1 + down, 4 + right), (3 + down, 2 + right))
        np.testing.assert_allclose(moved, base, atol=1e-4)  # float32, angles near 10
    for other in ((3, 4), (2, 2), (2, 3)):  # other rows, other columns, and the two swapped
        assert np.all(abs(score((1, 4), other) - base) > 1e-2)


@pytest.mark.parametrize("factors", [(2.0, 2.0), (2.0, 1.0), (1.0, 3.0)])
def test_interpolation_divides_each_coordinate(factors):
    pairs = [
        (axial(*[{"interpolate_factor": factor} for factor in factors]), axial({}, {})),
        (mixed_of(interpolate_factor=factors), mixed_of()),
    ]
    for interpolated, plain in pairs:
        positions = grid_positions(3, 5)
        expected = plain.angles(positions)
        np.testing.assert_allclose(interpolated.angles(positions * factors), expected, atol=2e-6)
        assert np.abs(interpolated.angles(positions) - expected).max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid_positions(3, 5, axis_order=(0, 0)), "axis_order must name each of the 2 axes once"),
        (lambda: grid_positions(3, 5, offsets=(1,)), "one offset for each axis"),
        (lambda: grid_positions(3, 5, coordinates="pixels"), "coordinates must be one of cells, unit"),
        (lambda: AxialRotaryEmbedding([]), "a RotaryEmbedding for each axis"),
        (lambda: axial({}, {"layout": "half"}), "one layout and seq_before_head_dim"),
        (lambda: axial({"use_xpos": True}), "xPos decays along one causal axis"),
        (lambda: axial({}, {}).angles(tf.zeros((5, 3))), "length, 2"),
        (lambda: axial({}, {}).angles(tf.zeros((5, 2), tf.bfloat16)), "integers or float32, got bfloat16"),
        (lambda: MixedRotaryEmbedding(3, 6), "multiple of 4"),
        (lambda: MixedRotaryEmbedding(0, 8), "num_heads must be >= 1, got 0"),
        (lambda: MixedRotaryEmbedding(3, 8, layout="both"), "layout must be one of"),
        (lambda: MixedRotaryEmbedding(3, 8, interpolate_factor=(2.0, 0.5)), "two factors >= 1"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_mixed_frequencies_are_those_of_rope_vit():
    along_x, along_y = mixed_frequencies(16, np.array([0.3]))
    expected_x = [0.95533649, 0.53722519, 0.30210392, 0.16988552, -0.29552021, -0.16618322, -0.09345169]
    expected_y = [0.29552021, 0.16618322, 0.09345169, 0.05255175, 0.95533649, 0.53722519, 0.30210392]
    np.testing.assert_allclose(along_x[0], [*expected_x, -0.05255175], atol=1e-8)
    np.testing.assert_allclose(along_y[0], [*expected_y, 0.16988552], atol=1e-8)


def test_mixed_frequencies_without_turns_are_axial():
    mixed = MixedRotaryEmbedding(3, 16, turn_axes=False)
    angles = mixed.angles(grid_positions(4, 5))
    assert angles.shape == (3, 20, 8)
    for head in angles:
        expected = axial({}, {}, theta=10.0).angles(grid_positions(4, 5))
        np.testing.assert_allclose(head, expected, atol=1e-5)


def test_mixed_angles_are_sums_over_both_coordinates_for_each_head():
    mixed, positions = MixedRotaryEmbedding(3, 8, seed=7), grid_positions(4, 5, axis_order=(1, 0)).numpy()
    assert positions[1].tolist() == [1, 0]
    weights = mixed.frequencies.numpy()
    np.testing.assert_array_equal(weights, MixedRotaryEmbedding(3, 8, seed=7).frequencies)
    for other in (MixedRotaryEmbedding(3, 8, seed=8).frequencies, weights[:, ::-1]):  # heads differ
        assert np.abs(weights - other).max() > 0.01
    x = normal(2, 3, 20, 8)
    angles = np.einsum("nc,chf->hnf", np.float64(positions), np.float64(weights))
    expected = turned(x, np.broadcast_to(angles, (2, 3, 20, 4)))
    np.testing.assert_allclose(mixed.rotate(x, mixed.cos_sin(positions)), expected, atol=5e-6)
    np.testing.assert_allclose(apply_rotary_emb(mixed(positions), x), expected, atol=5e-6)
    by_example = np.stack([positions, positions[::-1]])  # (batch, length, 2)
    rotated = mixed.rotate(x, mixed.cos_sin(by_example))
    np.testing.assert_allclose(rotated[0], expected[0], atol=5e-6)
    expected = turned(x[1], np.einsum("nc,chf->hnf", np.float64(by_example[1]), np.float64(weights)))
    np.testing.assert_allclose(rotated[1], expected, atol=5e-6)
