"""Every option of the language model: its effect, cached decoding, packed documents, graphs."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from models.config import RopeConfig, RopeScalingConfig, TransformerLMConfig
from models.transformer import TransformerLM
from tests.models.reference import randomized

# No two axes alike: 37 tokens, 16 positions, 6 heads of 8 features over 3 of keys.
PLAIN = TransformerLMConfig(
    vocab_size=37,
    context_length=16,
    dim=48,
    num_layers=2,
    num_heads=6,
    num_kv_heads=3,
    mlp_dim=20,
    qk_norm=False,
)
SPLIT = (5, 1, 1, 2, 1, 3)


def scaled(kind, **keys):
    return replace(PLAIN, rope=RopeConfig(scaling=RopeScalingConfig(type=kind, **keys)))


XPOS = RopeConfig(xpos=True, xpos_scale_base=16.0)
SCALINGS = {
    "linear": scaled("linear", factor=2.0),
    "ntk": scaled("ntk", factor=2.0),
    "dynamic": scaled("dynamic", factor=2.0),
    "llama3": scaled("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0),
    "longrope": scaled("longrope", factor=4.0, short_factor=(1.0,) * 4, long_factor=(1.0, 1.5, 2.0, 4.0)),
    "proportional": scaled("proportional", partial_rotary_factor=0.5),
    "rescaled": replace(PLAIN, rope=RopeConfig(theta_rescale_factor=2.0)),
    "layout": replace(PLAIN, rope=RopeConfig(layout="half")),
}
CONFIGS = {
    "yarn": scaled("yarn", factor=4.0),
    "interpolated": replace(PLAIN, rope=RopeConfig(theta=100.0, interpolate_factor=2.0)),
    "xpos": replace(PLAIN, rope=XPOS),
    "xpos_half": replace(PLAIN, rope=replace(XPOS, layout="half")),
    "partial": replace(PLAIN, rope=RopeConfig(rotary_fraction=0.5)),
    "learned_freq": replace(PLAIN, rope=RopeConfig(learned_freq=True)),
    "per_token": replace(PLAIN, learned_rotations="per_token"),
    "cumulative": replace(PLAIN, learned_rotations="cumulative", rope=RopeConfig(layout="half")),
    "cumulative_xpos": replace(PLAIN, learned_rotations="cumulative", rope=XPOS),
    "per_token_yarn": replace(scaled("yarn", factor=4.0), learned_rotations="per_token"),
    "partial_xpos_learned": replace(PLAIN, rope=replace(XPOS, rotary_fraction=0.5, learned_freq=True)),
    "cumulative_alone": replace(PLAIN, position="none", learned_rotations="cumulative"),
    "one_kv_head": replace(PLAIN, num_kv_heads=1, qk_norm=True),
    "head_dim": replace(PLAIN, head_dim=10, qkv_bias=True),
    "untied": replace(PLAIN, tied_embeddings=False),
    "norm_epsilon": replace(PLAIN, norm_epsilon=0.1),
    **{name: replace(PLAIN, position=name) for name in ("learned", "sinusoidal", "alibi", "none")},
}


@functools.cache
def model_named(name, dtype="float32"):
    return randomized(TransformerLM(({"plain": PLAIN} | SCALINGS | CONFIGS)[name], dtype=dtype))


def decoded(model, tokens, *, padding=None):
    """Logits of (batch, 13) tokens, decoded in chunks of the lengths in `SPLIT`."""
    cache = model.make_cache(len(tokens), padding=padding)
    logits = []
    for chunk in np.split(tokens, np.cumsum(SPLIT)[:-1], axis=1):
        chunk_logits, cache = model.decode(tf.constant(chunk), cache)
        logits.append(chunk_logits)
    assert int(cache[0].start) == 13
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize("name", [*SCALINGS, *CONFIGS])
def test_each_option_changes_the_logits(name, tokens):
    difference = np.max(abs(model_named(name)(tokens) - model_named("plain")(tokens)))
    assert difference > 0.01 * np.std(model_named("plain")(tokens))


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_decoding_of_padded_rows_equals_each_row_alone(name, tokens):
    model, padding = model_named(name), np.array([0, 3, 8], np.int32)
    padded = np.where(np.arange(13) < padding[:, np.newaxis], 0, tokens)
    together = decoded(model, padded, padding=padding)
    assert np.all(np.isfinite(together))
    for row, count in enumerate(padding):
        alone = model(tokens[row : row + 1, count:])[0]
        # float32; a misplaced token moves a logit by one standard deviation.
        assert np.max(abs(together[row, count:] - alone)) < 1e-4 * np.std(alone), row


@pytest.mark.parametrize("name", ["cumulative_xpos", "yarn", "one_kv_head", "alibi"])
def test_cached_decoding_in_bfloat16_is_as_accurate_as_the_full_pass(name, tokens):
    exact, model = model_named(name)(tokens).numpy(), model_named(name, "mixed_bfloat16")
    full = model(tokens).numpy()
    error, rounding = abs(decoded(model, tokens) - full), abs(full - exact)
    # The two passes round differently: the error is near that of bfloat16 itself.
    assert np.max(error) < 1.5 * np.max(rounding) and np.mean(error) <= np.mean(rounding)


def test_cache_may_be_longer_than_its_tokens_and_earlier_caches_stay_valid(tokens):
    model = model_named("interpolated")
    _, prefix = model.decode(tf.constant(tokens[:, :5]), model.make_cache(3, capacity=29))
    logits, cache = model.decode(tf.constant(tokens[:, 5:]), prefix)
    full = model(tokens).numpy()
    assert np.max(abs(logits - full[:, 5:])) < 1e-4 * np.std(full)  # float32
    assert (cache[0].keys.shape[2], int(cache[0].start)) == (29, 13)
    again, _ = model.decode(tf.constant(tokens[:, 5:]), prefix)
    np.testing.assert_array_equal(again, logits)


def test_cache_holds_the_kv_heads_in_the_compute_dtype():
    cache = model_named("yarn", "mixed_bfloat16").make_cache(5, capacity=7)
    stores = [store for layer in cache for store in (layer.keys, layer.values)]
    assert [(store.shape, store.dtype) for store in stores] == [((5, 3, 7, 8), tf.bfloat16)] * 4


@pytest.mark.parametrize("kind", ["per_token", "cumulative"])
def test_learned_rotations_start_as_the_plain_model_and_one_step_changes_them(kind, tokens):
    model = TransformerLM(replace(PLAIN, learned_rotations=kind))
    rotations = [weight for weight in model.trainable_weights if "learned_rotations" in weight.path]
    assert [tuple(weight.shape) for weight in rotations] == [(48, 3 * 4)] * 2
    plain = TransformerLM(PLAIN)
    plain.set_weights([w for w in model.get_weights() if w.shape != (48, 3 * 4)])
    before = plain(tokens)
    np.testing.assert_allclose(model(tokens), before, atol=1e-6)  # float32, logits below 1
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tokens) ** 2)
    for weight, gradient in zip(rotations, tape.gradient(loss, rotations), strict=True):
        weight.assign_sub(100.0 * gradient / tf.norm(gradient))
    assert np.max(abs(model(tokens) - before)) > 1e-4


@pytest.mark.parametrize("position", ["rotary", "learned", "alibi"])
def test_packed_documents_equal_each_alone(position):
    """Token 0 begins a document; both rows hold two, of other lengths."""
    config = replace(PLAIN, position=position)
    model = TransformerLM(config, document_separator=0)
    documents = [[0, 5, 6, 7, 8], [0, 9, 9, 3], [0, 4], [0, 8, 7, 6, 5, 4, 3]]
    packed = model(np.array([documents[0] + documents[1], documents[2] + documents[3]], np.int32))
    for row, start, document in ((0, 0, 0), (0, 5, 1), (1, 0, 2), (1, 2, 3)):
        alone = model(np.array([documents[document]], np.int32))[0]
        together = packed[row, start : start + len(documents[document])]
        np.testing.assert_allclose(together, alone, atol=1e-5)  # float32, logits below 1
