"""Chunked attention and gradient checkpointing leave logits and gradients of both models unchanged."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models.chunked
from models.config import AxialViTConfig, RopeConfig, TransformerLMConfig
from models.transformer import TransformerLM
from models.vit import AxialViT

SEED = np.array([3, 4], np.int32)
SIZES = {"dim": 24, "num_layers": 2, "num_heads": 6, "mlp_dim": 20}
TEXTS = {
    "rotated": {"num_kv_heads": 3, "learned_rotations": "cumulative", "rope": RopeConfig(learned_freq=True)},
    "alibi": {"num_kv_heads": 2, "position": "alibi"},
}
IMAGES = {
    "class_token": {"pooling": "class_token"},
    "by_axis": {"attention": "axial", "position": "mixed"},
}
CHANGES = {"attention_kernel": "chunked", "recompute_blocks": True}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(models.chunked, "CHUNK", 2)
    monkeypatch.setattr(models.chunked, "SPANS", 2)  # quick to trace


def text_model(variant, **options):
    keras.utils.set_random_seed(0)
    config = TransformerLMConfig(vocab_size=37, context_length=13, **SIZES, **TEXTS[variant], **options)
    return with_large_weights(TransformerLM(config, document_separator=5))


def image_model(variant, **options):
    keras.utils.set_random_seed(0)
    config = AxialViTConfig(patch_size=2, **SIZES, **IMAGES[variant], **options)
    return with_large_weights(AxialViT(config.for_images(6, 10, 3, 7)))


def with_large_weights(model):
    for number, variable in enumerate(model.trainable_variables):
        variable.assign_add(0.3 * np.random.default_rng(number).normal(size=variable.shape))
    return model


def results_of(model, inputs, *, in_graph=False):
    """Logits, and the gradient of each weight, of a training step."""

    def step(inputs):
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True, seed=SEED)
            loss = tf.reduce_mean(tf.math.cos(logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        return [logits, *map(tf.convert_to_tensor, gradients)]

    return (tf.function(step) if in_graph else step)(inputs)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert np.any(theirs.numpy() != 0)
        size = np.sqrt(np.mean(np.square(theirs)))
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * size)  # float32, angles summed over 13 tokens


def tokens():
    return tf.constant(np.random.default_rng(1).integers(0, 8, (3, 13)), tf.int32)


def images():
    return tf.constant(np.random.default_rng(1).normal(size=(2, 6, 10, 3)), tf.float32)


@pytest.mark.parametrize("variant", TEXTS)
def test_language_model_has_equal_logits_and_gradients(variant):
    expected = results_of(text_model(variant, dropout=0.3, attention_kernel="full"), tokens())
    assert_same(results_of(text_model(variant, dropout=0.3, **CHANGES), tokens()), expected)


@pytest.mark.parametrize("variant", IMAGES)
def test_vision_transformer_has_equal_logits_and_gradients(variant):
    rates = {"dropout": 0.3, "drop_path": 0.2}
    expected = results_of(image_model(variant, **rates, attention_kernel="full"), images())
    assert_same(results_of(image_model(variant, **rates, **CHANGES), images()), expected)


@pytest.mark.slow
def test_recomputed_blocks_have_equal_gradients_in_a_graph():
    expected = results_of(text_model("rotated", dropout=0.3), tokens())
    assert_same(results_of(text_model("rotated", dropout=0.3, **CHANGES), tokens(), in_graph=True), expected)


def test_blocks_are_recomputed_for_a_gradient_alone(monkeypatch):
    calls = []
    model = text_model("alibi", recompute_blocks=True)
    call = type(model.blocks[0]).call
    monkeypatch.setattr(
        type(model.blocks[0]), "call", lambda *args, **kwargs: calls.append(None) or call(*args, **kwargs)
    )
    model(tokens())
    assert len(calls) == 2
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tokens(), training=True))
    tape.gradient(loss, model.trainable_variables)
    assert len(calls) == 2 + 2 * 2


def test_chunks_equal_blockwise_attention_and_cached_decoding():
    full, chunked = (text_model("alibi", attention_kernel=kernel) for kernel in ("full", "chunked"))
    expected = full(tokens(), attention_block=3)
    np.testing.assert_allclose(chunked(tokens(), attention_block=3), expected, atol=1e-4)  # float32
    rows = tf.where(tokens() == 5, 6, tokens())  # one document: a decode ignores separators
    logits, _ = chunked.decode(rows, chunked.make_cache(3))
    np.testing.assert_allclose(logits, chunked(rows), atol=1e-4)  # float32
