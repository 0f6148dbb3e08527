import numpy as np
import pytest
import tensorflow as tf

from rope.frequencies import language_frequencies
from rope.rotation import LAYOUTS, rotary_angles, rotary_table, rotate
from tests.rope.reference import angles_of, language, normal, turned

QUERY, KEY = np.arange(1, 9) / 8, np.arange(8, 0, -1) / 8

in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def rotated(x, positions, layout, *, theta=10_000.0):
    """Our rotation of (..., length, dim) `x` by (..., length) positions."""
    x = tf.convert_to_tensor(x)
    angles = rotary_angles(positions, language_frequencies(x.shape[-1], theta=theta))
    return rotate(x, rotary_table(angles), layout=layout)


@in_both_layouts
def test_rotation_gives_the_published_values_and_scores(layout):
    # Computed in NumPy from the formulas of RoFormer (interleaved) and of GPT-NeoX (half).
    published = {
        "interleaved": [-0.15902906, -0.22985812, 0.21049108, 0.58848832]
        + [0.60222215, 0.76840971, 0.87199607, 1.0026205],
        "half": [-0.21194907, 0.01719397, 0.3485852, 0.49699775]
        + [-0.60110531, 0.79038242, 0.88585459, 1.0014955],
    }[layout]
    ours = rotated(QUERY[np.newaxis].astype(np.float32), [3], layout)[0]
    np.testing.assert_allclose(ours, published, atol=2e-7)  # float32 near 1
    score = {"interleaved": 1.2173432343819999, "half": 0.6097626258381588}[layout]
    key = rotated(KEY[np.newaxis].astype(np.float32), [1], layout)[0]
    np.testing.assert_allclose(np.dot(ours, key), score, rtol=1e-6)  # float32, eight products


@in_both_layouts
def test_rotation_is_a_complex_product_and_its_gradient_the_inverse_in_eager_graph_and_xla(layout):
    x, upstream = normal(2, 3, 5, 8), normal(2, 3, 5, 8, seed=1)
    positions = np.array([0, 1, 2, 40, 99], np.int32)

    def value_and_gradient(x, positions):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = rotated(x, positions, layout)
        return y, tape.gradient(y, x, output_gradients=upstream)

    expected = turned(x, angles_of(positions, language(8)), layout)
    inverse = turned(upstream, -angles_of(positions, language(8)), layout)
    for run in (
        value_and_gradient,
        tf.function(value_and_gradient),
        tf.function(value_and_gradient, jit_compile=True),
    ):
        value, gradient = run(tf.constant(x), tf.constant(positions))
        np.testing.assert_allclose(value, expected, atol=2e-5)  # float32 angles near 99
        np.testing.assert_allclose(gradient, inverse, atol=2e-5)


@in_both_layouts
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head_dim", [8, 12])
def test_a_compiled_rotation_has_the_gradients_of_eager_code(layout, dtype, head_dim):
    x = tf.cast(normal(2, 3, 5, head_dim), dtype)
    angles = tf.constant(normal(3, 5, 4, seed=1))  # of each head

    def value_and_gradients(x, angles):
        with tf.GradientTape() as outer:
            outer.watch(angles)
            with tf.GradientTape() as tape:
                tape.watch((x, angles))
                value = rotate(x, rotary_table(angles), layout=layout)
                cubes = tf.cast(value, tf.float32) ** 3
            d_x, d_angles = tape.gradient(cubes, (x, angles))
        return value, d_x, d_angles, outer.gradient(d_x, angles)

    traced = tf.function(value_and_gradients).get_concrete_function(x, angles)
    for eager, ours in zip(value_and_gradients(x, angles), traced(x, angles), strict=True):
        # The sums of the angles' gradients are float32, the rest may round to the next bfloat16.
        rtol = 1e-2 if ours.dtype == tf.bfloat16 else 1e-5
        np.testing.assert_allclose(
            tf.cast(ours, tf.float32), tf.cast(eager, tf.float32), rtol=rtol, atol=2e-5
        )


@in_both_layouts
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 5, 8), (2, 1, 8), (5, 8)])
def test_a_graph_sums_the_gradient_of_axes_that_the_table_broadcasts(layout, dtype, shape):
    x = tf.cast(normal(*shape), dtype)
    table, weights = rotary_table(normal(2, 5, 4, seed=1)), normal(2, 5, 8, seed=2)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(tf.cast(rotate(x, table, layout=layout), tf.float32) * weights)
        return tape.gradient(value, x)

    ours, eager = (tf.cast(function(x), tf.float32) for function in (tf.function(gradient), gradient))
    rtol = 2e-2 if dtype == "bfloat16" else 1e-5  # sums of up to five
    np.testing.assert_allclose(ours, eager, rtol=rtol, atol=rtol)


@in_both_layouts
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loops_and_branches_of_a_graph_have_the_gradients_of_eager_code(layout, dtype):
    x, angles = tf.cast(normal(2, 5, 8), dtype), tf.constant(normal(5, 4, seed=1))

    def rotate_by(x, angles):
        return rotate(x, rotary_table(angles), layout=layout)

    def in_scan(x, angles):
        return tf.scan(lambda total, factor: rotate_by(total, angles) * factor, tf.ones(2, x.dtype), x)[-1]

    def in_branches(x, angles):
        def inner():
            return tf.cond(tf.reduce_all(x > -99), lambda: rotate_by(x, angles), lambda: x)

        return tf.cond(tf.reduce_all(x < 99), inner, lambda: x)

    def gradients(x, angles, function):
        with tf.GradientTape() as tape:
            tape.watch((x, angles))
            cubes = tf.cast(function(x, angles), tf.float32) ** 3
        return tape.gradient(cubes, (x, angles))

    rtol = 1e-1 if dtype == "bfloat16" else 1e-4  # two roundings to bfloat16 between the rotations
    for function in (in_scan, in_branches):
        eager = gradients(x, angles, function)
        for ours, theirs in zip(gradients(x, angles, tf.function(function)), eager, strict=True):
            np.testing.assert_allclose(
                tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32), rtol=rtol, atol=rtol
            )


@in_both_layouts
def test_a_table_may_be_a_numpy_array(layout):
    x, angles = normal(2, 5, 8), normal(5, 4, seed=1)
    for table in (np.exp(1j * angles.astype(dtype)) for dtype in ("float32", "float64")):
        np.testing.assert_allclose(
            rotate(x, table, layout=layout), rotate(x, rotary_table(angles), layout=layout), atol=1e-6
        )


def test_xla_compiles_half_layout_and_half_precision_of_static_shape():
    def is_compiled(shape, dtype, layout):
        graph = tf.function(
            lambda x: rotate(x, rotary_table(tf.ones((5, 4))), layout=layout),
            input_signature=[tf.TensorSpec(shape, dtype)],
        )
        operations = graph.get_concrete_function().graph.get_operations()
        return any("_XlaMustCompile" in operation.node_def.attr for operation in operations)

    assert is_compiled((2, 5, 8), tf.float32, "half")
    assert is_compiled((2, 5, 8), tf.bfloat16, "interleaved")
    assert not is_compiled((2, 5, 8), tf.float32, "interleaved")  # one pass already
    assert not is_compiled((None, 5, 8), tf.bfloat16, "half")  # each shape would need its own compilation


@in_both_layouts
def test_bfloat16_is_multiplied_in_float32_and_rounded_once(layout):
    x = tf.cast(normal(64, 5, 8), tf.bfloat16)
    positions = [1, 2, 3, 40, 99]
    exact = turned(tf.cast(x, tf.float64), angles_of(positions, language(8)), layout)
    ours = rotated(x, positions, layout)
    assert ours.dtype == tf.bfloat16
    error = abs(tf.cast(ours, tf.float64).numpy() - exact)
    half_unit = 2.0 ** (np.floor(np.log2(abs(exact))) - 8)  # in the last of the 8 bits of bfloat16
    assert np.all(error <= half_unit + 2e-5)  # float32 angles near 99


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.float32, tf.float64])
def test_positions_may_be_integers_or_floats(dtype):
    angles = rotary_angles(tf.constant([[1, 5, 257]], dtype), tf.constant([1.0, 0.25], tf.float64))
    assert angles.dtype == tf.float32
    np.testing.assert_array_equal(angles, [[[1, 0.25], [5, 1.25], [257, 64.25]]])
