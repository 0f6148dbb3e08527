import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding, convert_layout
from tests.rope.reference import normal


@pytest.mark.parametrize("rotary_dim", [8, 4])
def test_scores_agree_after_the_conversion(rotary_dim):
    x, kernels, biases = normal(6, 5), normal(2, 5, 3 * 8, seed=1), normal(2, 3 * 8, seed=2)
    gain = normal(8, seed=3)

    def scores(layout, kernels, biases, gain):
        rotary = RotaryEmbedding(rotary_dim, layout=layout)
        rotated = []
        for kernel, bias in zip(kernels, biases, strict=True):
            heads = np.reshape(x @ kernel + bias, (6, 3, 8)).swapaxes(0, 1)
            heads = heads / np.sqrt(np.mean(heads**2, -1, keepdims=True)) * gain
            rotated.append(rotary.rotate_queries_or_keys(heads))
        return np.einsum("hmd,hnd->hmn", *rotated)

    def convert(weights):
        return convert_layout(weights, head_dim=8, source="interleaved", target="half", rotary_dim=rotary_dim)

    expected = scores("interleaved", kernels, biases, gain)
    converted = scores("half", *map(convert, (kernels, biases, gain)))
    np.testing.assert_allclose(converted, expected, atol=1e-4)  # float32 sums of 8 products
    assert np.abs(scores("half", kernels, biases, gain) - expected).max() > 0.1


@pytest.mark.parametrize("shape", [(5, 24), (24,), (5, 3, 8)])
def test_converting_twice_is_the_identity(shape):
    weights = normal(*shape)
    options = {"head_dim": 8, "source": "half", "target": "interleaved", "rotary_dim": 6}
    converted = convert_layout(weights, **options)
    restored = convert_layout(converted, **options | {"source": "interleaved", "target": "half"})
    np.testing.assert_array_equal(restored, weights)
    assert (converted != weights).any()
    tensor = convert_layout(tf.constant(weights), **options)
    assert tf.is_tensor(tensor)
    np.testing.assert_array_equal(tensor, converted)


def test_the_values_of_a_fused_kernel_do_not_change():
    fused = normal(5, (3 + 2 + 2) * 8)
    converted = convert_layout(fused, head_dim=8, source="interleaved", target="half", num_heads=5)
    np.testing.assert_array_equal(converted[:, 40:], fused[:, 40:])
    alone = convert_layout(fused[:, :40], head_dim=8, source="interleaved", target="half")
    np.testing.assert_array_equal(converted[:, :40], alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_dim": 7}, "must be a multiple of head_dim 7, got 24"),
        ({"rotary_dim": 3}, "rotary_dim must be even"),
        ({"rotary_dim": 10}, "rotary_dim must be even and in"),
        ({"num_heads": 4}, r"num_heads must be in \[1, 3\]"),
        ({"source": "gptj"}, "layout must be one of"),
        ({"target": "neox"}, "layout must be one of"),
    ],
)
def test_bad_conversions_are_refused(arguments, message):
    options = {"head_dim": 8, "source": "interleaved", "target": "half"} | arguments
    with pytest.raises(ValueError, match=message):
        convert_layout(normal(5, 24), **options)
