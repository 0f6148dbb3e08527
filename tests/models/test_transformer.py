import math
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import models.block
import models.transformer
from models.config import RopeConfig, TransformerLMConfig
from models.transformer import TransformerLM
from tests.models import reference
from tests.models.reference import relative_difference, rotated

SEED = np.array([3, 4], np.int32)
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
    """The model in NumPy, float64, one row and one head at a time, from its config and weights alone."""
    config, weights = model.config, {w.path.split("/", 1)[1]: w.numpy().astype(float) for w in model.weights}
    return np.stack([reference_row(config, weights, row) for row in tokens])


def reference_row(config, weights, tokens):
    length, head_dim = len(tokens), config.head_size
    rms_norm = partial(reference.rms_norm, epsilon=config.norm_epsilon)
    x = weights["embedding/embeddings"][tokens]
    if config.position == "learned":
        x = x + weights["position_embedding/embeddings"][:length]
    if config.position == "sinusoidal":
        angles = np.arange(length)[:, None] / 10_000.0 ** (np.arange(0, config.dim, 2) / config.dim)
        x = x + np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, config.dim)
    frequencies = config.rope.theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None] * frequencies / config.rope.interpolate_factor
    for index in range(config.num_layers):
        part = {name: weights[f"block_{index}/{name}"] for name in BLOCK_WEIGHTS}
        qkv = rms_norm(x, part["attention_norm/scale"]) @ part["attention/qkv/kernel"]
        qkv = qkv + weights.get(f"block_{index}/attention/qkv/bias", 0.0)
        heads = qkv.reshape(length, -1, head_dim).swapaxes(0, 1)
        mixed = []
        for head in range(config.num_heads):
            shared = head * config.num_kv_heads // config.num_heads
            query, key = heads[head], heads[config.num_heads + shared]
            value = heads[config.num_heads + config.num_kv_heads + shared]
            if config.qk_norm:
                query = rms_norm(query, weights[f"block_{index}/attention/query_norm/scale"])
                key = rms_norm(key, weights[f"block_{index}/attention/key_norm/scale"])
            if config.position == "rotary":
                query, key = (rotated(x, angles, config.rope.layout) for x in (query, key))
            scores = query @ key.T / np.sqrt(head_dim)
            if config.position == "alibi":
                slope = {1: 2**-2, 2: 2**-4, 3: 2**-6, 4: 2**-8, 5: 2**-1, 6: 2**-3}[head + 1]  # of 6 heads
                scores = scores - slope * (np.arange(length)[:, None] - np.arange(length))
            scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
            attention = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            mixed.append(attention @ value)
        x = x + np.concatenate(mixed, axis=-1) @ part["attention/output/kernel"]
        gate, up = np.split(rms_norm(x, part["mlp_norm/scale"]) @ part["mlp/gate_and_up/kernel"], 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ part["mlp/down/kernel"]
    head = weights.get("embedding/reverse_embeddings", weights["embedding/embeddings"].T)
    return rms_norm(x, weights["norm/scale"]) @ head


BLOCK_WEIGHTS = (
    "attention_norm/scale",
    "attention/qkv/kernel",
    "attention/output/kernel",
    "mlp_norm/scale",
    "mlp/gate_and_up/kernel",
    "mlp/down/kernel",
)


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


def test_rotary_logits_do_not_depend_on_the_context_length(model_of, tokens):
    longer = model_of(context_length=26)(np.tile(tokens, (1, 2)))
    assert relative_difference(longer[:, :13], model_of()(tokens)) < 1e-5  # float32


def test_eager_graph_and_xla_agree(model_of, tokens):
    model = model_of(num_kv_heads=1, num_layers=1)

    def loss_and_gradients(tokens):
        with tf.GradientTape() as tape:
            logits = model(tokens[:, :-1], training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[:, 1:], logits)
            loss = tf.reduce_mean(losses)
        return logits, tape.gradient(loss, model.trainable_variables)

    eager_logits, eager_gradients = loss_and_gradients(tf.constant(tokens))
    for options in ({}, {"jit_compile": True}):
        logits, gradients = tf.function(loss_and_gradients, **options)(tf.constant(tokens))
        assert relative_difference(logits, eager_logits) < 1e-5  # float32
        assert len(gradients) == len(model.weights)
        for gradient, expected in zip(gradients, eager_gradients, strict=True):
            gradient, expected = tf.convert_to_tensor(gradient), tf.convert_to_tensor(expected)
            assert relative_difference(gradient, expected) < 1e-4  # float32


def test_dropout_depends_on_the_seed_and_applies_in_training_alone(model_of, tokens):
    model = model_of(dropout=0.3)
    assert relative_difference(model(tokens, training=True), model(tokens, training=True)) > 0.1
    model_of()(tokens, training=True)  # without dropout no seed is needed
    first = model(tokens, training=True, seed=SEED)
    np.testing.assert_array_equal(model(tokens, training=True, seed=SEED), first)
    assert relative_difference(model(tokens, training=True, seed=SEED + 1), first) > 0.1
    in_graph = tf.function(lambda tokens, seed: model(tokens, training=True, seed=seed))
    assert relative_difference(in_graph(tokens, SEED), first) < 1e-5  # float32
    for inference in (model(tokens), model(tokens, seed=SEED)):
        np.testing.assert_array_equal(inference, model_of()(tokens))


def test_dropout_seeds_differ_between_branches_and_layers(monkeypatch, model_of, tokens):
    seeds, rates = [], []
    model = model_of(dropout=0.3)

    def recording_dropout(x, rate, seed, whole_examples=False):
        if not whole_examples:  # which a language model does not use
            seeds.append(tuple(seed.numpy()))
            rates.append(rate)
        return x

    monkeypatch.setattr(models.block, "dropout", recording_dropout)
    monkeypatch.setattr(models.transformer, "dropout", recording_dropout)
    model(tokens, training=True, seed=SEED)
    assert len(seeds) == len(set(seeds)) == 5  # the embedding, and attention and MLP of two layers
    assert rates == [0.3] * 5


def test_weights_and_logits_are_float32_under_mixed_bfloat16(model_of, tokens):
    model = model_of(dtype="mixed_bfloat16", **VARIANTS["one_kv_head"])
    assert {weight.dtype for weight in model.weights} == {"float32"}
    logits = model(tokens)
    assert logits.dtype == tf.float32
    difference = relative_difference(logits, model_of(**VARIANTS["one_kv_head"])(tokens))
    # bfloat16 has 8 bits; a smaller difference would mean that the blocks compute in float32.
    assert 1e-3 < difference < 0.3


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_the_layers_of_the_config_without_rotary_state(model_of, variant):
    model = model_of(**VARIANTS[variant])
    config, vocabulary, context, dim, heads, mlp = model.config, 37, 13, 24, 6, 20
    head_dim, qkv = config.head_dim or 4, (heads + 2 * config.num_kv_heads) * (config.head_dim or 4)
    block = 2 * dim + dim * qkv + heads * head_dim * dim + 3 * dim * mlp
    block += 2 * head_dim * config.qk_norm + qkv * config.qkv_bias
    expected = vocabulary * dim * (1 if config.tied_embeddings else 2) + 2 * block + dim
    expected += context * dim * (config.position == "learned")
    assert model.count_params() == expected
    assert len(model.trainable_variables) == len(model.weights)


def test_an_untrained_model_has_the_loss_of_a_uniform_guess():
    config = TransformerLMConfig(vocab_size=97, context_length=32, dim=48, num_layers=2, mlp_dim=96)
    tokens = np.random.default_rng(0).integers(0, 97, (8, 32))
    logits = TransformerLM(config)(tokens)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(np.roll(tokens, -1, axis=1), logits)
    np.testing.assert_allclose(np.mean(loss), math.log(97), atol=0.1)  # embedding stddev 0.02


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"position": "learned"}, "learned positions"),
        ({"rope": RopeConfig(xpos=True)}, "positions under xPos"),
    ],
)
def test_positions_that_end_with_the_context_refuse_more_tokens(model_of, options, kind):
    model = model_of(**options)
    for call in (lambda: model(tf.zeros((2, 14), tf.int32)), lambda: model.make_cache(2, capacity=14)):
        with pytest.raises(ValueError, match=f"{kind} end at context_length 13, got 14 tokens"):
            call()


def test_last_returns_the_last_logits_of_all(model_of, tokens):
    model = model_of()
    np.testing.assert_allclose(model(tokens, last=4), model(tokens)[:, -4:], atol=1e-5)  # float32


@pytest.mark.parametrize("variant", ["rotary", "alibi"])
def test_blockwise_attention_is_limited_to_two_blocks(model_of, tokens, variant):
    model = model_of(**VARIANTS[variant])
    full, blockwise = model(tokens).numpy(), model(tokens, attention_block=3).numpy()
    np.testing.assert_allclose(blockwise[:, :6], full[:, :6], atol=1e-5)  # float32
    assert np.all(np.max(abs(blockwise - full), axis=(0, 2))[6:] > 1e-3)
    model, changed = model_of(**VARIANTS[variant], num_layers=1), tokens.copy()
    changed[:, 2] = (changed[:, 2] + 1) % 37
    before, after = (model(rows, attention_block=4).numpy() for rows in (tokens, changed))
    np.testing.assert_array_equal(after[:, 8:], before[:, 8:])
    assert np.all(np.max(abs(after - before), axis=(0, 2))[2:8] > 1e-4)


@pytest.mark.parametrize("stddev", [0.02, 0.3])
def test_initial_weights_of_a_block_have_the_configured_standard_deviation(stddev):
    keras.utils.set_random_seed(3)
    sizes = {"dim": 48, "num_layers": 2, "num_heads": 3, "num_kv_heads": 3, "mlp_dim": 80}
    block = TransformerLM(TransformerLMConfig(**sizes, initial_stddev=stddev)).blocks[1]
    # 2,304 draws or more: their deviation is within 5 %.
    for layer in (block.attentions[0].qkv, block.mlp.gate_and_up):
        assert layer.kernel.numpy().std() == pytest.approx(stddev, rel=0.05)
    for layer in (block.attentions[0].output_projection, block.mlp.down):
        assert layer.kernel.numpy().std() == pytest.approx(stddev / 2, rel=0.05)  # 4 branches add up
