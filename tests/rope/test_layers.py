"""The contract of Keras layers for every public layer, `RoPE`, and the attention layers."""

import json
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.attention import Attention, BlockOptions
from models.kernels import CausalMask, attend
from rope import (
    AxialRotaryEmbedding,
    MixedRotaryEmbedding,
    RoPE,
    RotaryAttention,
    RotaryEmbedding,
    RotaryGroupQueryAttention,
)
from tests.rope.reference import angles_of, language, normal, turned


def axial(**options):
    return AxialRotaryEmbedding([RotaryEmbedding(4), RotaryEmbedding(4, learned_freq=True)], **options)


# Constructor, shapes and dtype of the inputs, and number of weights.
LAYERS = {
    "RotaryEmbedding": (partial(RotaryEmbedding, 8, layout="half", learned_freq=True), [(2, 5)], "int32", 1),
    "AxialRotaryEmbedding": (axial, [(2, 5, 2)], "int32", 1),
    "MixedRotaryEmbedding": (partial(MixedRotaryEmbedding, 3, 8), [(2, 5, 2)], "float32", 1),
    "RoPE": (partial(RoPE, 8, layout="half", learned_freq=True), [(2, 3, 5, 12)], "float32", 1),
    "RoPE of a pair": (partial(RoPE, 8, use_xpos=True), [(2, 3, 5, 12), (2, 1, 5, 12)], "float32", 0),
    "RotaryAttention": (partial(RotaryAttention, 3, 8), [(2, 5, 12), (2, 7, 12)], "float32", 8),
    "RotaryGroupQueryAttention": (
        partial(RotaryGroupQueryAttention, 8, 6, 2),
        [(2, 5, 12), (2, 7, 12)],
        "float32",
        8,
    ),
}


@pytest.fixture(params=LAYERS)
def case(request):
    return LAYERS[request.param]


def is_attention(layer):
    return isinstance(layer, RotaryAttention | RotaryGroupQueryAttention)


def call(layer, inputs):
    if is_attention(layer):
        return layer(*inputs)
    return layer(inputs[0] if len(inputs) == 1 else inputs)


def make_inputs(shapes, dtype):
    if dtype == "int32":
        return [np.arange(np.prod(shape), dtype=dtype).reshape(shape) for shape in shapes]
    return [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def functional(layer, shapes, dtype):
    inputs = [keras.Input((None, *s[2:]) if len(s) < 4 else s[1:], dtype=dtype) for s in shapes]
    return keras.Model(inputs, call(layer, inputs))


def assert_equal(actual, expected, **tolerance):
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(tf.cast(one, "float32"), tf.cast(other, "float32"), **tolerance)


def test_eager_graph_xla_and_functional_calls_agree(case):
    make, shapes, dtype, weights = case
    layer, inputs = make(), make_inputs(shapes, dtype)
    result = call(layer, inputs)
    assert len(layer.weights) == weights
    # The angles of mixed frequencies have an axis of heads, which a mask of the positions lacks.
    assert layer.supports_masking != isinstance(layer, MixedRotaryEmbedding)
    for compiled in (
        tf.function(partial(call, layer)),
        tf.function(partial(call, layer), jit_compile=True),
        functional(layer, shapes, dtype),
    ):
        assert_equal(compiled(inputs), result, atol=2e-5)  # float32
    input_shapes = shapes if is_attention(layer) or len(shapes) == 1 else [shapes]
    computed = layer.compute_output_shape(*input_shapes)
    assert (computed if len(tf.nest.flatten(result)) == 1 else list(computed)) == (
        tuple(result.shape) if tf.is_tensor(result) else [tuple(x.shape) for x in result]
    )


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_float16"])
def test_outputs_have_the_compute_dtype_and_angles_float32(case, policy):
    make, shapes, dtype, _ = case
    layer = make(dtype=policy)
    symbolic = functional(layer, shapes, dtype).outputs
    results = tf.nest.flatten(call(layer, make_inputs(shapes, dtype)))
    rotates = is_attention(layer) or isinstance(layer, RoPE)
    expected = layer.compute_dtype if rotates else "float32"
    assert {x.dtype for x in symbolic} == {x.dtype.name for x in results} == {expected}
    assert all(x.dtype == "float32" for x in layer.weights if "frequencies" in x.path)


def test_a_config_and_a_file_restore_the_layer_and_whether_it_trains(case, tmp_path):
    make, shapes, dtype, weights = case
    assert not functional(make(trainable=False), shapes, dtype).trainable_weights
    layer, inputs = make(name="mine", dtype="mixed_bfloat16"), make_inputs(shapes, dtype)
    model = functional(layer, shapes, dtype)
    for seed, weight in enumerate(layer.weights):
        weight.assign(weight + 0.1 * normal(*weight.shape, seed=seed))
    for trainable in (True, False):
        layer.trainable = trainable
        config = json.loads(json.dumps(layer.get_config()))
        again = type(layer).from_config(config)
        assert json.loads(json.dumps(again.get_config())) == config
        assert (again.name, again.trainable, again.dtype_policy.name) == ("mine", trainable, "mixed_bfloat16")
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert_equal(loaded(inputs), model(inputs), atol=0)
        assert len(loaded.weights) == weights
        assert len(loaded.trainable_weights) == len(model.trainable_weights) == weights * trainable


@pytest.mark.filterwarnings("ignore:Layer '.*' .of type EinsumDense")  # inside GroupQueryAttention
@pytest.mark.parametrize("name", ["RoPE", "RotaryAttention", "RotaryGroupQueryAttention"])
def test_the_mask_of_an_embedding_reaches_the_pooling(name):
    make, _, _, _ = LAYERS[name]
    tokens, layer = keras.Input((None,), dtype="int32"), make()
    x = keras.layers.Embedding(5, 12, mask_zero=True)(tokens)
    x = layer(x, x) if is_attention(layer) else layer(x)
    model = keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(x))
    np.testing.assert_allclose(model(np.array([[1, 2, 0, 0]])), model(np.array([[1, 2]])), atol=1e-6)


def test_a_functional_model_trains_under_xla():
    inputs, shared = keras.Input((5, 12)), RotaryEmbedding(8, learned_freq=True)
    x = RoPE(8, learned_freq=True)(inputs)
    model = keras.Model(inputs, RotaryAttention(3, 8, rotary=shared)(x, x))
    assert all(weight is not shared.weights[0] for weight in model.weights)  # the layer copies it
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=True)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(normal(2, 5, 12), normal(2, 5, 12, seed=1), verbose=0)
    assert len(before) == 10
    # The bias of the keys has a gradient through the rotation only.
    for weight, value in zip(model.trainable_weights, before, strict=True):
        assert np.abs(weight - value).max() > 1e-7, weight.path


def test_rope_rotates_each_row_by_its_positions():
    positions = np.array([[0, 0, 0, 1, 2], [3, 4, 5, 6, 7]])
    x = normal(2, 5, 5, 12)  # heads equals length: shapes do not reveal a wrong axis
    expected = turned(x, angles_of(positions + 2, language(8, 500.0))[:, None], "half")
    options = {"theta": 500.0, "layout": "half"}
    np.testing.assert_allclose(RoPE(8, **options)(x, positions=positions, offset=2), expected, atol=5e-6)
    before, swapped = RoPE(8, seq_before_head_dim=True, **options), np.swapaxes(x, 1, 2)
    for rotated in before([swapped, swapped], positions=positions, offset=2):
        np.testing.assert_allclose(np.swapaxes(rotated, 1, 2), expected, atol=5e-6)
    symbolic = keras.Input((5, 5, 12)), keras.Input((5,), dtype="int32")
    model = keras.Model(symbolic, RoPE(8, **options)(symbolic[0], positions=symbolic[1], offset=2))
    np.testing.assert_allclose(model([x, positions]), expected, atol=5e-6)


def test_rope_applies_xpos_if_asked_and_always_in_its_method_rotate():
    q, k = normal(2, 3, 5, 12), normal(2, 1, 5, 12, seed=1)
    plain, xpos = RotaryEmbedding(8), RotaryEmbedding(8, use_xpos=True)
    expected = plain.rotate_queries_or_keys(q), plain.rotate_queries_or_keys(k)
    assert_equal(RoPE(8)([q, k]), expected, atol=1e-6)
    assert_equal((RoPE(8)(q), RoPE(8).rotate(k)), expected, atol=1e-6)
    assert_equal(RoPE(8, use_xpos=True).rotate(q), expected[0], atol=1e-6)
    expected = xpos.rotate_queries_and_keys(q, k)
    for rotated in (RoPE(8, use_xpos=True)([q, k]), RoPE(8).rotate([q, k])):
        assert_equal(rotated, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: RoPE(7), ValueError, "dim must be a positive even number"),
        (lambda x: RoPE(16)(x), ValueError, "x has 12 features, fewer than the 16"),
        (lambda x: RoPE(8)(x, positions=range(4)), ValueError, "needs 5 positions along its axis 2"),
        (lambda x: RoPE(8)(x, positions=tf.range(5.0, dtype="bfloat16")), TypeError, "positions must be"),
        (lambda x: RoPE(8)([x, x, x]), ValueError, "expected 2"),
        (lambda x: RoPE(8)([x[:, :, :1], x]), ValueError, "needs 5 positions along its axis 2"),
        (lambda x: RoPE(8, use_xpos=True)(x), ValueError, r"Call \[queries, keys\]"),
        (lambda x: RotaryAttention(3, 8)(x, x), ValueError, r"needs inputs \(batch, length, features\)"),
        (lambda x: RotaryAttention(3, 4, rotary=RotaryEmbedding(8))(x[0], x[0]), ValueError, "4 features"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(normal(2, 3, 5, 12))


def grouped(**options):
    return RotaryGroupQueryAttention(8, 6, 2, use_bias=False, **options)


def multi_head(**options):
    return RotaryAttention(6, 8, use_bias=False, **options)


@pytest.mark.parametrize(("make", "dtype"), [(multi_head, "bfloat16"), (grouped, "float32")])
def test_rotary_attention_equals_that_of_the_language_model(make, dtype):
    layer, x = make(rotary=RotaryEmbedding(4, theta=500.0, layout="half"), dtype=dtype), normal(2, 5, 48)
    actual = layer(x, x, use_causal_mask=True)
    query, key, value, output = [weight.numpy() for weight in layer.weights]
    sizes = {"dim": 48, "num_heads": 6, "num_kv_heads": key.shape[1], "head_dim": 8, "mlp_dim": 1}
    options = BlockOptions(**sizes, input_stddev=1.0, output_stddev=1.0, layout="half")
    attention = Attention(options, dtype=dtype, name="attention")
    bias = CausalMask(dtype).bias(tf.range(5), tf.range(5))
    cos_sin = layer.rotary.cos_sin_pair(tf.range(5))
    arguments = {"cos_sin": cos_sin, "kernel": partial(attend, bias=bias)}
    attention(tf.cast(x, dtype), **arguments)
    qkv = np.concatenate([weight.reshape(48, -1) for weight in (query, key, value)], axis=-1)
    attention.qkv.kernel.assign(qkv)
    attention.output_projection.kernel.assign(output.reshape(-1, 48))
    expected, _ = attention(tf.cast(x, dtype), **arguments)
    tolerance = 1e-5 if dtype == "float32" else 2**-6
    assert_equal(actual, expected, atol=tolerance * np.abs(tf.cast(expected, "float32")).max())


@pytest.mark.parametrize("make", [multi_head, grouped])
def test_rotary_attention_depends_on_distances_and_masks_only(make):
    layer, x = make(), normal(2, 5, 48)
    whole = layer(x, x, use_causal_mask=True)
    padded = np.pad(x, ((0, 0), (3, 0), (0, 0)), constant_values=7)
    visible = np.broadcast_to(np.arange(8) >= 3, (2, 1, 8))
    shifted = layer(padded, padded, attention_mask=visible, use_causal_mask=True)
    np.testing.assert_allclose(shifted[:, 3:], whole, atol=1e-5)
    changed = np.concatenate([x[:, :4], x[:, 4:] + 1], axis=1)
    np.testing.assert_allclose(layer(changed, changed, use_causal_mask=True)[:, :4], whole[:, :4], atol=1e-6)
    order = [1, 0, 2, 3, 4]  # without rotation, the last query would not notice the order of its keys
    assert np.abs(layer(x, x[:, order])[:, 4] - layer(x, x)[:, 4]).max() > 1e-3
