"""Properties that both models share: dropout, graphs, chunked attention and gradient checkpointing.

Chunked attention and gradient checkpointing leave logits and gradients unchanged.
"""

from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf

import models.block
import models.chunked
import models.transformer
import models.vit
from models.config import AxialViTConfig, RopeConfig, TransformerLMConfig
from models.transformer import TransformerLM
from models.vit import AxialViT
from tests.models.reference import randomized, relative_difference

SEED = np.array([3, 4], np.int32)
SIZES = {"dim": 24, "num_layers": 2, "num_heads": 6, "mlp_dim": 20}
TEXTS = {
    "rotated": {"num_kv_heads": 3, "learned_rotations": "cumulative", "rope": RopeConfig(learned_freq=True)},
    "alibi": {"num_kv_heads": 2, "position": "alibi"},
}
IMAGES = {"class_token": {"pooling": "class_token"}, "by_axis": {"attention": "axial", "position": "mixed"}}
CHANGES = {"attention_kernel": "chunked", "recompute_blocks": True}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(models.chunked, "TILE", 2)


def model_of(variant, **options):
    if variant in TEXTS:
        config = TransformerLMConfig(vocab_size=37, context_length=13, **(SIZES | TEXTS[variant] | options))
        return randomized(TransformerLM(config, document_separator=5))
    config = AxialViTConfig(patch_size=2, **(SIZES | IMAGES[variant] | options))
    return randomized(AxialViT(config.for_images(6, 10, 3, 7)))


def inputs_of(variant):
    random = np.random.default_rng(1)
    if variant in TEXTS:
        return tf.constant(random.integers(0, 8, (3, 13)), tf.int32)
    return tf.constant(random.normal(size=(2, 6, 10, 3)), tf.float32)


def results_of(model, inputs, **graph):
    """Logits, and the gradient of each weight, of a training step; `graph` are options of `tf.function`."""

    def step(inputs):
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True, seed=SEED)
            loss = tf.reduce_mean(tf.math.cos(logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        return [logits, *map(tf.convert_to_tensor, gradients)]

    return (tf.function(step, **graph) if graph else step)(inputs)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert np.any(theirs.numpy() != 0)
        size = np.sqrt(np.mean(np.square(theirs)))
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * size)  # float32, angles summed over 13 tokens


@pytest.mark.parametrize("variant", ["rotated", pytest.param("by_axis", marks=pytest.mark.slow)])
def test_eager_graph_and_xla_agree(variant):
    model, inputs = model_of(variant, num_layers=1), inputs_of(variant)
    expected = results_of(model, inputs)
    for jit_compile in (False, True):
        assert_same(results_of(model, inputs, jit_compile=jit_compile), expected)


@pytest.mark.parametrize(("variant", "rate"), [("rotated", "dropout"), ("by_axis", "drop_path")])
def test_dropout_depends_on_the_seed_and_applies_in_training_alone(variant, rate):
    plain, model, inputs = model_of(variant), model_of(variant, **{rate: 0.3}), inputs_of(variant)
    assert relative_difference(model(inputs, training=True), model(inputs, training=True)) > 0.1
    first = model(inputs, training=True, seed=SEED)
    np.testing.assert_array_equal(model(inputs, training=True, seed=SEED), first)
    assert relative_difference(model(inputs, training=True, seed=SEED + 1), first) > 0.1
    in_graph = tf.function(lambda inputs, seed: model(inputs, training=True, seed=seed))
    assert relative_difference(in_graph(inputs, SEED), first) < 1e-4  # float32
    for inference in (model(inputs), model(inputs, seed=SEED), plain(inputs, training=True)):
        np.testing.assert_array_equal(inference, plain(inputs))


@pytest.mark.parametrize(("variant", "branches"), [("rotated", 2), ("by_axis", 3)])
def test_dropout_seeds_differ_between_branches_and_layers(monkeypatch, variant, branches):
    seeds, model = [], model_of(variant, dropout=0.3)

    def recording(x, rate, seed, whole_examples=False):
        seeds.append(tuple(seed.numpy()))
        return x

    for module in (models.block, models.transformer, models.vit):
        monkeypatch.setattr(module, "dropout", recording)
    model(inputs_of(variant), training=True, seed=SEED)
    # The embedding, and dropout and stochastic depth of each branch of two layers.
    assert len(seeds) == len(set(seeds)) == 1 + 2 * branches * 2


@pytest.mark.parametrize("variant", [*TEXTS, *IMAGES])
def test_logits_and_gradients_are_equal(variant):
    rates = {"dropout": 0.3} | ({"drop_path": 0.2} if variant in IMAGES else {})
    expected = results_of(model_of(variant, **rates, attention_kernel="full"), inputs_of(variant))
    assert_same(results_of(model_of(variant, **rates, **CHANGES), inputs_of(variant)), expected)


def test_auto_computes_long_sequences_in_tiles(monkeypatch):
    attend_in_chunks = Mock(wraps=models.transformer.attend_in_chunks)
    monkeypatch.setattr(models.chunked, "TILE", 128)
    monkeypatch.setattr(models.transformer, "attend_in_chunks", attend_in_chunks)
    full, auto = (model_of("rotated", num_layers=1, attention_kernel=kernel) for kernel in ("full", "auto"))
    tokens = tf.constant(np.random.default_rng(1).integers(0, 37, (1, 256)), tf.int32)
    for inputs in (tokens[:, 1:], tokens):
        np.testing.assert_allclose(auto(inputs), full(inputs), atol=1e-4)  # float32
    assert [call.args[0].shape[2] for call in attend_in_chunks.call_args_list] == [256]


@pytest.mark.slow
def test_recomputed_blocks_have_equal_gradients_in_a_graph():
    plain, recomputed = model_of("rotated", dropout=0.3), model_of("rotated", dropout=0.3, **CHANGES)
    tokens = inputs_of("rotated")
    assert_same(results_of(recomputed, tokens, jit_compile=False), results_of(plain, tokens))


def test_blocks_are_recomputed_for_a_gradient_alone(monkeypatch):
    calls, tokens = [], inputs_of("alibi")
    model = model_of("alibi", recompute_blocks=True)
    call = type(model.blocks[0]).call
    monkeypatch.setattr(
        type(model.blocks[0]), "call", lambda *args, **kwargs: calls.append(None) or call(*args, **kwargs)
    )
    model(tokens)
    assert len(calls) == 2
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tokens, training=True))
    tape.gradient(loss, model.trainable_variables)
    assert len(calls) == 2 + 2 * 2


def test_chunks_equal_blockwise_attention_and_cached_decoding():
    full, chunked = (model_of("alibi", attention_kernel=kernel) for kernel in ("full", "chunked"))
    tokens = inputs_of("alibi")
    expected = full(tokens, attention_block=3)
    np.testing.assert_allclose(chunked(tokens, attention_block=3), expected, atol=1e-4)  # float32
    tokens = tf.where(tokens == 5, 6, tokens)  # one document: a decode ignores separators
    logits, _ = chunked.decode(tokens, chunked.make_cache(3))
    np.testing.assert_allclose(logits, chunked(tokens), atol=1e-4)  # float32
