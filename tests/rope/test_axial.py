import keras
import numpy as np
import pytest
import tensorflow as tf

from rope import (
    MixedRotaryEmbedding,
    RotaryEmbedding,
    apply_rotary_emb,
    grid_angles,
    grid_positions,
    mixed_frequencies,
)
from tests.rope.reference import angles_of, grid, language, normal, turned


@pytest.mark.parametrize("dims", [(7,), (3, 5), (2, 3, 5)])
def test_each_axis_has_a_block_of_features(dims):
    rotary, t = RotaryEmbedding(8), normal(2, *dims, 8 * len(dims))
    expected = turned(t, grid(*[angles_of(range(size), language(8)) for size in dims]))
    np.testing.assert_allclose(apply_rotary_emb(rotary.get_axial_freqs(*dims), t), expected, atol=2e-6)


def test_pixels_lie_between_minus_one_and_one():
    rotary, t = RotaryEmbedding(8, freqs_for="pixel"), normal(3, 5, 16)
    frequencies = np.pi * np.linspace(1, 5, 4)
    axes = np.linspace(-1, 1, 3), np.linspace(-1, 1, 5)
    expected = turned(t, grid(*[angles_of(axis, frequencies) for axis in axes]))
    np.testing.assert_allclose(apply_rotary_emb(rotary.get_axial_freqs(3, 5), t), expected, atol=1e-5)


def test_offsets_move_each_axis():
    # rotary-embedding-torch returns the cached rows of offset 0 in its axial mode.
    rotary = RotaryEmbedding(8)
    rotary.get_axial_freqs(9, 9)
    whole, part = rotary.axial_angles(9, 9), rotary.axial_angles(3, 5, offsets=(6, 2))
    np.testing.assert_array_equal(part, whole[6:, 2:7])
    axes = np.linspace(-1, 1, 3) + 0.5, np.linspace(-1, 1, 5)
    expected = grid(*[angles_of(axis, rotary.frequencies) for axis in axes])
    unit = rotary.axial_angles(3, 5, offsets=(0.5, 0), coordinates="unit")
    np.testing.assert_allclose(unit, expected, atol=1e-5)


def test_a_grid_is_not_its_transpose():
    rotary = RotaryEmbedding(8)
    wide, tall = rotary.axial_angles(3, 5).numpy(), rotary.axial_angles(5, 3).numpy()
    assert np.abs(wide - tall.swapaxes(0, 1)).max() > 1
    columns_first = rotary.axial_angles(5, 3, axis_order=(1, 0)).numpy()
    np.testing.assert_array_equal(wide, columns_first.swapaxes(0, 1))


def test_each_axis_may_have_frequencies_of_its_own():
    rows, columns = angles_of(range(3), [1.0, 0.5]), angles_of(range(5), [0.7, 0.2, 0.1])
    actual = grid_angles([tf.constant(rows, tf.float32), tf.constant(columns, tf.float32)])
    np.testing.assert_allclose(actual, grid(rows, columns), atol=1e-6)


def test_columns_first_is_the_order_of_rope_vit():
    # In RoPE-ViT, x = index % width rotates the first block, and theta is 100.
    rotary = RotaryEmbedding(8, theta=100.0)
    np.testing.assert_allclose(rotary.frequencies, [1, 0.31622777, 0.1, 0.03162278], rtol=1e-6)
    flat = np.reshape(rotary.axial_angles(3, 5, axis_order=(1, 0)), (15, 8))
    index = np.arange(15)
    expected = np.concatenate(
        [angles_of(index % 5, rotary.frequencies), angles_of(index // 5, rotary.frequencies)], axis=-1
    )
    np.testing.assert_allclose(flat, expected, atol=1e-6)


@pytest.mark.parametrize("move", [(1, 0), (0, 1), (2, 3)])
def test_moving_two_points_together_does_not_change_their_score(move):
    freqs = RotaryEmbedding(8).get_axial_freqs(9, 9)
    q, k = normal(16, seed=1), normal(16, seed=2)

    def score(query_cell, key_cell):
        rotated = (
            apply_rotary_emb(freqs[cell][None], x[None]) for cell, x in ((query_cell, q), (key_cell, k))
        )
        return float(tf.reduce_sum(tf.multiply(*rotated)))

    moved = score((1 + move[0], 4 + move[1]), (3 + move[0], 2 + move[1]))
    assert moved == pytest.approx(score((1, 4), (3, 2)), abs=1e-4)
    assert abs(score((1, 4), (5, 7)) - score((1, 4), (3, 2))) > 0.1


def test_interpolation_divides_each_axis():
    fine = RotaryEmbedding(8, interpolate_factor=2.0).axial_angles(6, 10)
    np.testing.assert_allclose(fine[::2, ::2], RotaryEmbedding(8).axial_angles(3, 5), atol=1e-6)


def test_yarn_scales_each_axis_and_applies_its_attention_factor():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    rotary, x = RotaryEmbedding(16, theta=100.0, scaling=scaling), normal(3, 5, 32)
    ratios = rotary.frequencies / language(16, 100.0)
    assert ratios[0] == 1 and ratios[-1] == pytest.approx(0.25)
    angles = grid(*[angles_of(range(size), rotary.frequencies) for size in (3, 5)])
    expected = turned(x, angles) * 1.13862944
    np.testing.assert_allclose(rotary.rotate(x, rotary.axial_table(3, 5)), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"cannot hold the attention factor 1\.139"):
        rotary.get_axial_freqs(3, 5)


def test_the_half_layout_pairs_across_all_axes():
    rotary, x = RotaryEmbedding(8, layout="half"), normal(3, 5, 16)
    angles = grid(*[angles_of(range(size), language(8)) for size in (3, 5)])
    expected = turned(x, angles, "half")
    np.testing.assert_allclose(rotary.rotate(x, rotary.axial_table(3, 5)), expected, atol=2e-6)
    actual = apply_rotary_emb(rotary.get_axial_freqs(3, 5), x, layout="half")
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_a_grid_of_unknown_size_is_traced_once():
    rotary, traces = RotaryEmbedding(8), []

    @tf.function(input_signature=[tf.TensorSpec((), tf.int32)] * 2)
    def angles(height, width):
        traces.append(None)
        return rotary.axial_angles(height, width)

    for height, width in ((3, 5), (2, 7)):
        np.testing.assert_allclose(angles(height, width), rotary.axial_angles(height, width), atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("dims", "arguments", "message"),
    [
        ((3, 5), {"axis_order": (0, 0)}, "axis_order must name each of the axes 0 to 1 once"),
        ((3, 5), {"offsets": (1,)}, "one offset for each axis"),
        ((), {}, "one offset for each axis"),
        ((3, 5), {"coordinates": "pixels"}, "coordinates must be one of cells, unit"),
    ],
)
def test_wrong_arguments_of_a_grid_are_refused(dims, arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(8).axial_angles(*dims, **arguments)


def test_mixed_frequencies_are_those_of_rope_vit():
    along_x, along_y = mixed_frequencies(1, 16, turns=np.array([0.3]))
    expected_x = [0.95533649, 0.53722519, 0.30210392, 0.16988552, -0.29552021, -0.16618322, -0.09345169]
    expected_y = [0.29552021, 0.16618322, 0.09345169, 0.05255175, 0.95533649, 0.53722519, 0.30210392]
    np.testing.assert_allclose(along_x[0], [*expected_x, -0.05255175], atol=1e-8)
    np.testing.assert_allclose(along_y[0], [*expected_y, 0.16988552], atol=1e-8)


def test_mixed_frequencies_without_turns_are_axial():
    mixed = MixedRotaryEmbedding(3, 16, turn_axes=False)
    axial = RotaryEmbedding(8, theta=10.0).axial_angles(4, 5)
    angles = mixed.angles(grid_positions(4, 5))
    assert angles.shape == (3, 20, 8)
    for head in angles:
        np.testing.assert_allclose(head, np.reshape(axial, (20, 8)), atol=1e-5)


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
    np.testing.assert_allclose(mixed.rotate(x, mixed.table(positions)), expected, atol=5e-6)
    np.testing.assert_allclose(apply_rotary_emb(mixed(positions), x), expected, atol=5e-6)


def test_mixed_frequencies_train_in_float32_and_are_restored_from_a_file(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((None, 2))
        model = keras.Model(inputs, MixedRotaryEmbedding(3, 8, seed=1)(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    positions = tf.constant([[[257.0, 3.0], [1.0, 258.0]]])
    before = model(positions)
    assert before.dtype == tf.float32 and model.trainable_weights[0].dtype == "float32"
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(model(positions)))
    (gradient,) = tape.gradient(loss, model.trainable_weights)
    model.trainable_weights[0].assign_sub(0.01 * gradient)
    after = model(positions)
    assert np.abs(after - before).max() > 0.01
    model.save(tmp_path / "mixed.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "mixed.keras")(positions), after)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MixedRotaryEmbedding(3, 6), "multiple of 4"),
        (lambda: MixedRotaryEmbedding(0, 8), "num_heads must be >= 1, got 0"),
        (lambda: MixedRotaryEmbedding(-1, 8), "num_heads must be >= 1, got -1"),
        (lambda: MixedRotaryEmbedding(3, 8, layout="both"), "layout must be one of"),
        (lambda: MixedRotaryEmbedding(3, 8)(tf.zeros((5, 3))), "must have 2 coordinates"),
        (
            lambda: MixedRotaryEmbedding(3, 8)(tf.zeros((5, 2), tf.bfloat16)),
            "integers or float32, got bfloat16",
        ),
    ],
)
def test_mixed_arguments_out_of_range_are_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
