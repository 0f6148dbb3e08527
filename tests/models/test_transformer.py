from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import RopeConfig, TransformerLMConfig
from models.transformer import TransformerLM
from tests.models.reference import (
    attention,
    feed_forward,
    relative_difference,
    rms_norm,
    sinusoids,
    weights_of,
)

VARIANTS = {
    "rotary": {},
    "interpolated": {
        "num_kv_heads": 3,
        "rope": RopeConfig(theta=100.0, layout="half", interpolate_factor=2.0),
    },
    "one_kv_head": {"num_kv_heads": 1, "qk_norm": True},
    "learned": {"position": "learned"},
    "sinusoidal": {"position": "sinusoidal"},
    "alibi": {"position": "alibi", "num_kv_heads": 2},
    "none": {"position": "none"},
    "qwen": {"head_dim": 6, "norm_epsilon": 0.1, "tied_embeddings": False, "qkv_bias": True, "qk_norm": True},
}


def reference_logits(model, tokens):
    """The model in NumPy, from its config and weights alone."""
    return np.stack([reference_row(model.config, weights_of(model), row) for row in tokens])


def reference_row(config, weights, tokens):
    positions = np.arange(len(tokens))
    norm = partial(rms_norm, epsilon=config.norm_epsilon)
    x = weights["embedding/embeddings"][tokens]
    if config.position == "learned":
        x = x + weights["position_embedding/embeddings"][positions]
    if config.position == "sinusoidal":
        x = np.sqrt(config.dim) * x + sinusoids(positions, config.dim)
    angles = np.zeros((config.num_heads, len(tokens), config.head_size // 2))
    if config.position == "rotary":
        frequencies = config.rope.theta ** (-np.arange(0, config.head_size, 2) / config.head_size)
        angles += np.outer(positions, frequencies) / config.rope.interpolate_factor
    bias = np.zeros((config.num_heads, len(tokens), len(tokens)))
    if config.position == "alibi":
        slopes = np.array([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])  # of 6 heads
        bias -= slopes[:, None, None] * (positions[:, None] - positions)
    bias[:, ~np.tri(len(tokens), dtype=bool)] = -np.inf
    for index in range(config.num_layers):
        name = f"block_{index}"
        normed = norm(x, weights[f"{name}/attention_norm/scale"])
        x = x + attention(config, weights, f"{name}/attention", normed, angles, bias)
        x = x + feed_forward(weights, f"{name}/mlp", norm(x, weights[f"{name}/mlp_norm/scale"]))
    head = weights.get("embedding/reverse_embeddings", weights["embedding/embeddings"].T)
    return norm(x, weights["norm/scale"]) @ head


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_model_in_numpy_and_ignore_later_tokens(model_of, tokens, variant):
    model = model_of(**VARIANTS[variant])
    logits = model(tokens)
    assert (logits.shape, logits.dtype) == ((3, 13, 37), tf.float32)
    assert relative_difference(logits, reference_logits(model, tokens)) < 1e-4  # float32, two layers
    changed = tokens.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 37
    after = model(changed)
    np.testing.assert_array_equal(after[:, :5], logits[:, :5])
    assert np.all(np.max(abs(after - logits), axis=(0, 2))[5:] > 1e-3)


def test_weights_and_logits_are_float32_under_mixed_bfloat16(model_of, tokens):
    model = model_of(dtype="mixed_bfloat16", **VARIANTS["one_kv_head"])
    assert {weight.dtype for weight in model.weights} == {"float32"}
    logits = model(tokens)
    assert logits.dtype == tf.float32
    difference = relative_difference(logits, model_of(**VARIANTS["one_kv_head"])(tokens))
    # bfloat16 has 8 bits; a smaller difference would mean that the blocks compute in float32.
    assert 1e-3 < difference < 0.3


def test_rotation_adds_no_weights(model_of):
    rotated, plain = (model_of(position=position).weights for position in ("rotary", "none"))
    assert [(w.path, w.shape) for w in rotated] == [(w.path, w.shape) for w in plain]


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"position": "learned"}, "learned positions"), ({"rope": RopeConfig(xpos=True)}, "under xPos")],
)
def test_positions_that_end_with_the_context_refuse_more_tokens(model_of, options, kind):
    model = model_of(**options)
    for call in (lambda: model(tf.zeros((2, 14), tf.int32)), lambda: model.make_cache(2, capacity=14)):
        with pytest.raises(ValueError, match=f"{kind} end at context_length 13, got 14 tokens"):
            call()


def test_last_returns_the_last_logits_of_all(model_of, tokens):
    model = model_of()
    np.testing.assert_allclose(model(tokens, last=4), model(tokens)[:, -4:], atol=1e-5)  # float32


def test_blockwise_attention_is_limited_to_two_blocks(model_of, tokens):
    full, blockwise = model_of()(tokens).numpy(), model_of()(tokens, attention_block=3).numpy()
    np.testing.assert_allclose(blockwise[:, :6], full[:, :6], atol=1e-5)  # float32
    assert np.all(np.max(abs(blockwise - full), axis=(0, 2))[6:] > 1e-3)
    model, changed = model_of(num_layers=1), tokens.copy()
    changed[:, 2] = (changed[:, 2] + 1) % 37
    before, after = (model(rows, attention_block=4).numpy() for rows in (tokens, changed))
    np.testing.assert_array_equal(after[:, 8:], before[:, 8:])
    assert np.all(np.max(abs(after - before), axis=(0, 2))[2:8] > 1e-4)


def test_initial_weights_of_a_block_have_the_configured_standard_deviation():
    keras.utils.set_random_seed(3)
    stddev = 0.3
    sizes = {"dim": 48, "num_layers": 2, "num_heads": 3, "num_kv_heads": 3, "mlp_dim": 80}
    block = TransformerLM(TransformerLMConfig(**sizes, initial_stddev=stddev)).blocks[1]
    # 2,304 draws or more: their deviation is within 5 %.
    for layer in (block.attentions[0].qkv, block.mlp.gate_and_up):
        assert layer.kernel.numpy().std() == pytest.approx(stddev, rel=0.05)
    for layer in (block.attentions[0].output_projection, block.mlp.down):
        assert layer.kernel.numpy().std() == pytest.approx(stddev / 2, rel=0.05)  # 4 branches add up
