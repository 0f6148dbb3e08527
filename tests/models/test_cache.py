"""The cache of generation: `make_cache` and `decode`."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models.decoding import decoded

SPLITS = [(13,), (1,) * 13, (5, 1, 4, 3)]


def test_cached_decoding_equals_the_full_pass(model_of, tokens, variant):
    model = model_of(variant=variant)
    full = model(tokens).numpy()
    for split in SPLITS:
        # float32; a misplaced token moves a logit by one standard deviation.
        assert np.max(abs(decoded(model, tokens, split) - full)) < 1e-4 * np.std(full), split


def test_compiled_decoding_equals_the_full_pass(model_of, tokens):
    model = model_of(variant="interpolated")
    full = model(tokens).numpy()
    difference = decoded(model, tokens, (5, 1, 1, 6), compiled=True) - full
    assert np.max(abs(difference)) < 1e-4 * np.std(full)  # float32


@pytest.mark.parametrize("variant", ["interpolated", "one_kv_head", "alibi", "learned"])
def test_cached_decoding_in_bfloat16_is_as_accurate_as_the_full_pass(model_of, tokens, variant):
    model, exact = model_of(variant=variant, dtype="mixed_bfloat16"), model_of(variant=variant)
    full = model(tokens).numpy()
    rounding = abs(full - exact(tokens))
    for split in SPLITS[1:]:
        error = abs(decoded(model, tokens, split) - full)
        assert np.max(error) < 1.5 * np.max(rounding), split
        assert np.mean(error) <= np.mean(rounding), split


def test_padded_rows_equal_each_row_alone_whatever_the_padding(model_of, tokens, variant):
    model, padding = model_of(variant=variant), np.array([0, 3, 8], np.int32)
    is_padding = np.arange(13) < padding[:, np.newaxis]
    zeros, others = (np.where(is_padding, token, tokens) for token in (0, 36))
    together = decoded(model, zeros, (13,), padding=padding)
    other = decoded(model, others, (13,), padding=padding)
    np.testing.assert_array_equal(together[~is_padding], other[~is_padding])
    for logits in (together, decoded(model, zeros, (9, 1, 3), padding=padding)):
        assert np.all(np.isfinite(logits))
        for row, count in enumerate(padding):
            alone = model(tokens[row : row + 1, count:])[0]
            assert np.max(abs(logits[row, count:] - alone)) < 1e-4 * np.std(alone), row  # float32


def test_cache_may_be_longer_than_its_tokens_and_earlier_caches_stay_valid(model_of, tokens):
    model = model_of(variant="interpolated")
    first, prefix = model.decode(tf.constant(tokens[:, :5]), model.make_cache(3, capacity=29))
    second, cache = model.decode(tf.constant(tokens[:, 5:]), prefix)
    full = model(tokens).numpy()
    difference = np.concatenate([first, second], axis=1) - full
    assert np.max(abs(difference)) < 1e-4 * np.std(full)  # float32
    assert (cache[0].keys.shape[2], int(cache[0].start)) == (29, 13)
    again, _ = model.decode(tf.constant(tokens[:, 5:]), prefix)
    np.testing.assert_array_equal(again, second)


def test_cache_holds_the_kv_heads_in_the_compute_dtype(model_of):
    cache = model_of(variant="interpolated", dtype="mixed_bfloat16").make_cache(5, capacity=7)
    assert len(cache) == 2
    for layer in cache:
        for store in (layer.keys, layer.values):
            assert (store.shape, store.dtype) == ((5, 3, 7, 4), tf.bfloat16)


def test_more_tokens_than_the_capacity_are_an_error(model_of, tokens):
    model = model_of()
    _, cache = model.decode(tf.constant(tokens[:, :5]), model.make_cache(3, capacity=6))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        model.decode(tf.constant(tokens[:, 5:7]), cache)


def test_decoding_one_token_neither_splits_a_kernel_nor_scales_the_cache(model_of):
    # Both would cost more than the rest of the step.
    model, capacity = model_of(), 11
    signature = [tf.TensorSpec((None, 1), tf.int32), model.cache_spec(capacity)]
    graph = tf.function(model.decode, input_signature=signature).get_concrete_function().graph
    outputs = [
        (operation.type, tuple(output.shape))
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank is not None
    ]
    config = model.config
    assert (config.dim, config.mlp_dim) not in [shape for _, shape in outputs]
    assert [shape for kind, shape in outputs if kind == "Mul" and shape[-2:-1] == (capacity,)] == []
