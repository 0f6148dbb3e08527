import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding
from tests.rope.reference import language, normal


@pytest.mark.parametrize("options", [{}, {"use_xpos": True}, {"freqs_for": "constant", "num_freqs": 4}])
def test_a_gradient_step_changes_the_next_output(options):
    rotary, q, k = RotaryEmbedding(8, learned_freq=True, **options), normal(2, 5, 8), normal(2, 5, 8, seed=1)
    (weight,) = rotary.trainable_weights
    calls = rotary.rotate_queries_and_keys, tf.function(rotary.rotate_queries_and_keys)
    before = [call(q, k)[0] for call in calls]
    for _ in range(2):  # a second step would fail if a graph were cached
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.matmul(*rotary.rotate_queries_and_keys(q, k), transpose_b=True) ** 2)
        weight.assign_sub(1e-3 * tape.gradient(loss, weight))
    for call, old in zip(calls, before, strict=True):
        assert np.abs(call(q, k)[0] - old).max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"interpolate_factor": 4.0},
        {"theta_rescale_factor": 4.0},
        {"scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        {"scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.5}},
    ],
)
def test_trained_frequencies_are_scaled_for_a_longer_context(options):
    extended = RotaryEmbedding(16, learned_freq=True, **options)
    np.testing.assert_allclose(extended.trainable_weights[0], language(16), rtol=1e-6)  # unscaled
    extended.trainable_weights[0].assign(2 * language(16))
    fixed = RotaryEmbedding(16, **options)
    assert fixed.weights == [] and isinstance(fixed.frequencies, np.ndarray)
    np.testing.assert_allclose(extended.frequencies, 2 * fixed.frequencies, rtol=1e-6)


def test_a_frequency_of_zero_can_learn_under_a_scaling():
    rotary = RotaryEmbedding(4, custom_freqs=[1.0, 0.0], learned_freq=True, interpolate_factor=2.0)
    rotary.trainable_weights[0].assign([1.0, 3.0])
    np.testing.assert_allclose(rotary.frequencies, [0.5, 1.5])
