import numpy as np
import pytest
import tensorflow as tf

from rope import private_tensorflow
from rope.rotation import LAYOUTS, compose, compute_cos_sin, rotary_angles, rotate
from tests.rope.reference import angles_of, language, normal, turned

in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.mark.parametrize(
    ("layout", "shape"), [("interleaved", (2, 3, 5, 8)), ("half", (2, 3, 5, 8)), ("half", (2, 5, 3, 8))]
)
def test_rotation_is_a_complex_product_and_its_gradient_the_inverse_in_eager_graph_and_xla(layout, shape):
    x, upstream = normal(*shape), normal(*shape, seed=1)
    positions, is_before_heads = np.array([0, 1, 2, 40, 99], np.int32), shape[1] == 5
    options = {"layout": layout, "seq_before_head_dim": is_before_heads}

    def value_and_gradient(x, positions):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = rotate(x, compute_cos_sin(rotary_angles(positions, language(8))), **options)
        return y, tape.gradient(y, x, output_gradients=upstream)

    angles = angles_of(positions, language(8))
    angles = angles[:, np.newaxis] if is_before_heads else angles
    expected, inverse = turned(x, angles, layout), turned(upstream, -angles, layout)
    in_graph, in_xla = (tf.function(value_and_gradient, jit_compile=use_xla) for use_xla in (False, True))
    for run in (value_and_gradient, in_graph, in_xla):
        value, gradient = run(tf.constant(x), tf.constant(positions))
        np.testing.assert_allclose(value, expected, atol=2e-5)  # float32 angles near 99
        np.testing.assert_allclose(gradient, inverse, atol=2e-5)


@pytest.mark.parametrize(
    ("layout", "dtype", "head_dim"), [("interleaved", "float32", 12), ("half", "bfloat16", 8)]
)
def test_a_compiled_rotation_has_the_gradients_of_eager_code(layout, dtype, head_dim):
    x = tf.cast(normal(2, 3, 5, head_dim), dtype)
    angles = tf.constant(normal(1, 3, 5, 4, seed=1))  # of each head

    def value_and_gradients(x, angles):
        with tf.GradientTape() as outer:
            outer.watch(angles)
            with tf.GradientTape() as tape:
                tape.watch((x, angles))
                value = rotate(x, compute_cos_sin(angles), layout=layout)
                cubes = tf.cast(value, tf.float32) ** 3
            d_x, d_angles = tape.gradient(cubes, (x, angles))
        return value, d_x, d_angles, outer.gradient(d_x, angles)

    traced = tf.function(value_and_gradients).get_concrete_function(x, angles)
    for eager, ours in zip(value_and_gradients(x, angles), traced(x, angles), strict=True):
        # The sums of the angles' gradients are float32, the rest may round to the next bfloat16.
        rtol = 1e-2 if ours.dtype == tf.bfloat16 else 1e-5
        np.testing.assert_allclose(tf.cast(ours, "float32"), tf.cast(eager, "float32"), rtol=rtol, atol=2e-5)


@pytest.mark.parametrize(("layout", "dtype"), [("interleaved", "float32"), ("half", "bfloat16")])
def test_loops_and_branches_of_a_graph_have_the_gradients_of_eager_code(layout, dtype):
    x, angles = tf.cast(normal(2, 5, 8), dtype), tf.constant(normal(5, 4, seed=1))

    def rotate_by(x, angles):
        return rotate(x, compute_cos_sin(angles), layout=layout)

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
            ours, theirs = tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32)
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


def test_xla_compiles_graphs_of_static_shape():
    def is_compiled(shape, dtype):
        graph = tf.function(
            lambda x: rotate(x, compute_cos_sin(tf.ones((5, 4)))),
            input_signature=[tf.TensorSpec(shape, dtype)],
        )
        operations = graph.get_concrete_function().graph.get_operations()
        return any("_XlaMustCompile" in operation.node_def.attr for operation in operations)

    assert is_compiled((2, 5, 8), tf.bfloat16)
    assert not is_compiled((None, 5, 8), tf.float32)  # each shape would need its own compilation


@in_both_layouts
@pytest.mark.parametrize("seq_before_head_dim", [False, True])
@pytest.mark.parametrize(("batch", "heads", "length"), [(2, 3, 5), (5, 5, 5)])
def test_cos_sin_has_the_sequence_axis_alone_or_every_axis(layout, seq_before_head_dim, batch, heads, length):
    # Equal sizes: shapes do not reveal a wrong axis.
    x = normal(batch, heads, length, 12)
    for axes in ((length,), (batch, 1, length), (1, heads, length), (batch, heads, length)):
        angles = normal(*axes, 4)
        expected = turned(x, np.broadcast_to(angles, (batch, heads, length, 4)), layout)
        if not seq_before_head_dim:
            rotated = rotate(x, compute_cos_sin(angles), layout=layout)
        else:
            ordered = angles if angles.ndim == 2 else angles.swapaxes(1, 2)
            cos_sin = compute_cos_sin(ordered).numpy()
            rotated = rotate(x.swapaxes(1, 2), cos_sin, layout=layout, seq_before_head_dim=True)
            rotated = np.swapaxes(rotated, 1, 2)
        np.testing.assert_allclose(rotated, expected, atol=5e-6)  # float32


@pytest.mark.parametrize(
    ("shape", "x_shape", "seq_before_head_dim"),
    [
        ((4, 4, 2), (2, 3, 5, 8), False),  # another length
        ((2, 5, 4, 2), (2, 3, 5, 8), False),  # no axis for the heads
        ((3, 5, 4, 2), (2, 3, 5, 8), False),  # no axis for the batch
        ((2, 2, 5, 4, 2), (2, 3, 5, 8), False),
        ((5, 4, 2), (5, 8), True),  # no axis for the heads in x
    ],
)
def test_cos_sin_that_does_not_match_is_refused(shape, x_shape, seq_before_head_dim):
    with pytest.raises(ValueError, match="does not match x of shape"):
        rotate(tf.zeros(x_shape), tf.zeros(shape), seq_before_head_dim=seq_before_head_dim)


def test_wrong_inputs_of_a_rotation_are_refused():
    cos_sin = tf.zeros((5, 4, 2))
    with pytest.raises(TypeError, match="x must be floating-point queries or keys, got int32"):
        rotate(tf.ones((2, 5, 8), tf.int32), cos_sin)
    for shape in (None, (None, 5, None)):
        traced = tf.function(lambda x: rotate(x, cos_sin), input_signature=[tf.TensorSpec(shape)])
        with pytest.raises(ValueError, match="x must have a known rank and number of features"):
            traced.get_concrete_function()
    with pytest.raises(ValueError, match="one of interleaved, half; got 'neox'"):
        rotate(tf.zeros((5, 8)), cos_sin, layout="neox")
    with pytest.raises(ValueError, match="x has 6 features, fewer than the 8 to be rotated"):
        rotate(tf.zeros((5, 6)), cos_sin)
    with pytest.raises(TypeError, match="cos_sin must be float32, got bfloat16"):
        rotate(tf.zeros((5, 8)), tf.cast(cos_sin, tf.bfloat16))
    with pytest.raises(ValueError, match=r"cos_sin must be \(..., length, dim / 2, 2\), got shape \(5, 8\)"):
        rotate(tf.zeros((5, 8)), tf.zeros((5, 8)))


@pytest.mark.parametrize("seq_before_head_dim", [False, True])
def test_compose_adds_angles_and_multiplies_scales(seq_before_head_dim):
    axes = (2, 5, 5) if seq_before_head_dim else (2, 3, 5)
    along, everywhere = normal(5, 4), normal(*axes, 4, seed=1)
    angles = everywhere + (along[:, np.newaxis] if seq_before_head_dim else along)
    expected = compute_cos_sin(angles, scale=6.0)
    a, b = compute_cos_sin(along, scale=2.0), compute_cos_sin(everywhere, scale=3.0)
    for first, second in ((a, b), (b, a)):
        composed = compose(first, second, seq_before_head_dim=seq_before_head_dim)
        np.testing.assert_allclose(composed, expected, atol=5e-6)  # float32, scale 6
    np.testing.assert_allclose(compose(a, a), compute_cos_sin(2 * along, scale=4.0), atol=2e-6)
    for wrong in (b[0], b[..., :1, :], a[..., :1, :]):
        with pytest.raises(ValueError, match="the sequence axis alone or every axis"):
            compose(b, wrong)
    with pytest.raises(ValueError, match="the same pairs and length"):
        compose(a, a[:1])


def test_rotation_without_the_private_modules_is_the_same(monkeypatch):
    x, cos_sin = tf.constant(normal(2, 3, 5, 8)), compute_cos_sin(normal(5, 4))
    expected = rotate(x, cos_sin)
    monkeypatch.setattr(private_tensorflow, "control_flow_util", None)
    monkeypatch.setattr(private_tensorflow, "control_flow_v2_func_graphs", None)
    np.testing.assert_allclose(tf.function(rotate)(x, cos_sin), expected, atol=1e-6)  # float32
