import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from rope import RoPE, RotaryEmbedding
from tests.rope.reference import SCHEMES, angles_of, language, normal


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES.keys())
def test_the_config_restores_the_layer(options):
    first = RotaryEmbedding(8, layout="half", seq_before_head_dim=True, name="mine", **options)
    config = json.loads(json.dumps(first.get_config()))
    again = RotaryEmbedding.from_config(config)
    assert again.get_config() == config and again.name == "mine"
    x = normal(2, 5, 3, 8)
    np.testing.assert_array_equal(*(layer.rotate_queries_and_keys(x, x) for layer in (first, again)))


def test_a_call_on_queries_is_refused():
    for queries in (normal(2, 3, 5, 8), keras.KerasTensor((2, 3, 5, 8), "bfloat16")):
        with pytest.raises(TypeError, match=r"got .* call a RoPE layer .* rotate_queries_or_keys"):
            RotaryEmbedding(8)(queries)


@keras.saving.register_keras_serializable(package="rope_tests")
class SelfAttention(keras.layers.Layer):
    """Rotates in its own call, as the error for symbolic tensors advises."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rotary = RotaryEmbedding(8, learned_freq=True)

    def call(self, x):
        q, k = self.rotary.rotate_queries_and_keys(x, x)
        return tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), x)


def test_a_layer_that_rotates_in_its_call_trains_and_is_restored_from_a_file(tmp_path):
    inputs = keras.Input((None, 8))
    model = keras.Model(inputs, SelfAttention()(inputs))
    x = normal(4, 5, 8)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    before = model.trainable_weights[0].numpy()
    model.fit(x, normal(4, 5, 8, seed=1), epochs=1, verbose=0)
    assert np.abs(model.trainable_weights[0] - before).max() > 1e-6
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


def test_positions_and_frequencies_stay_float32_under_a_mixed_policy(policy):
    # 257.0 is not a bfloat16, and 2049.0 not a float16: autocast would round them.
    positions = tf.constant([257.0, 2_049.0])
    rotary = RotaryEmbedding(8, learned_freq=True)
    angles = rotary(positions)
    assert angles.dtype == tf.float32 and rotary.trainable_weights[0].dtype == "float32"
    expected = np.repeat(angles_of(positions, language(8)), 2, axis=-1)
    np.testing.assert_allclose(angles, expected, rtol=1e-6)


def test_learned_frequencies_stay_float32_inside_a_half_precision_layer(policy):
    layer = SelfAttention()
    recorded = []

    def record(q, k):
        recorded.append(layer.rotary.frequencies)
        return q, k

    layer.rotary.rotate_queries_and_keys = record
    layer(normal(2, 5, 8))
    (frequencies,) = recorded
    assert frequencies.dtype == tf.float32
    np.testing.assert_array_equal(frequencies, layer.rotary.trainable_weights[0])
    assert (tf.cast(tf.cast(frequencies, tf.bfloat16), tf.float32) != frequencies).numpy().any()


def test_a_method_on_a_symbolic_tensor_is_refused():
    symbolic, rotary = keras.Input((5, 8)), RotaryEmbedding(8, learned_freq=True)
    for call in (
        lambda: rotary.rotate_queries_or_keys(symbolic),
        lambda: rotary.rotate_queries_and_keys(symbolic, symbolic),
        lambda: rotary.rotate(symbolic, rotary.cos_sin(tf.range(5))),
        lambda: RoPE(8).rotate(symbolic),
    ):
        with pytest.raises(TypeError, match="would not track the layer's weights"):
            call()
