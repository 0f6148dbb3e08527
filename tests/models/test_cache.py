"""The cache that generation uses: `make_cache` and `decode`."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models.decoding import decoded

SPLITS = [(13,), (1,) * 13, (5, 1, 4, 3), (1, 11, 1), (12, 1)]


def test_cached_decoding_equals_the_full_pass(model_of, tokens, variant):
    model = model_of(variant=variant)
    full = model(tokens).numpy()
    for split in SPLITS:
        # float32; a misplaced token moves a logit by its whole deviation.
        assert np.max(abs(decoded(model, tokens, split) - full)) < 1e-4 * np.std(full), split


def test_cached_decoding_in_bfloat16_is_no_further_off_than_bfloat16_is(model_of, tokens, variant):
    model, exact = model_of(variant=variant, dtype="mixed_bfloat16"), model_of(variant=variant)
    full = model(tokens).numpy()
    own_error = abs(full - exact(tokens))
    for split in SPLITS:
        error = abs(decoded(model, tokens, split) - full)
        assert np.max(error) <= np.max(own_error), split
        assert np.mean(error) <= np.mean(own_error), split


@pytest.mark.parametrize("variant", ["interpolated", "alibi"])
def test_a_cache_may_be_longer_than_its_tokens(model_of, tokens, variant):
    model = model_of(variant=variant)
    first, cache = model.decode(tf.constant(tokens[:, :5]), model.make_cache(3, capacity=29))
    second, cache = model.decode(tf.constant(tokens[:, 5:]), cache)
    full = model(tokens).numpy()
    ours = np.concatenate([first, second], axis=1)
    assert np.max(abs(ours - full)) < 1e-4 * np.std(full)  # float32
    assert (cache.capacity, int(cache.length)) == (29, 13)


def test_rows_padded_at_the_left_equal_each_row_alone(model_of, tokens, variant):
    model = model_of(variant=variant)
    padding = np.array([0, 3, 8], np.int32)
    padded = np.where(np.arange(13) < padding[:, np.newaxis], 0, tokens)
    for split in ((13,), (9, 1, 3)):
        together = decoded(model, padded, split, padding=padding)
        assert np.all(np.isfinite(together))
        for row, count in enumerate(padding):
            alone = model(tokens[row : row + 1, count:])[0]
            difference = np.max(abs(together[row, count:] - alone))
            assert difference < 1e-4 * np.std(alone), (row, split)  # float32


def test_the_padding_itself_is_never_looked_at(model_of, tokens, variant):
    model, padding = model_of(variant=variant), np.array([2, 3, 8], np.int32)
    hidden = np.arange(13) < padding[:, np.newaxis]
    zeros, others = (np.where(hidden, token, tokens) for token in (0, 36))
    a, b = (decoded(model, rows, (13,), padding=padding) for rows in (zeros, others))
    np.testing.assert_array_equal(a[~hidden], b[~hidden])


def test_decoding_leaves_an_earlier_cache_as_it_was(model_of, tokens):
    model = model_of(variant="interpolated")
    _, prefix = model.decode(tf.constant(tokens[:, :6]), model.make_cache(3))
    first, _ = model.decode(tf.constant(tokens[:, 6:8]), prefix)
    model.decode(tf.constant(tokens[:, 8:]), prefix)
    again, _ = model.decode(tf.constant(tokens[:, 6:8]), prefix)
    np.testing.assert_array_equal(again, first)


def test_a_cache_holds_the_shared_heads_in_the_compute_dtype(model_of):
    cache = model_of(variant="interpolated", dtype="mixed_bfloat16").make_cache(5, capacity=7)
    assert len(cache.keys) == len(cache.values) == 2
    for store in (*cache.keys, *cache.values):
        assert (store.shape, store.dtype) == ((5, 3, 7, 4), tf.bfloat16)
    assert cache.capacity == 7


def test_more_tokens_than_the_capacity_are_refused(model_of, tokens):
    model = model_of()
    _, cache = model.decode(tf.constant(tokens[:, :5]), model.make_cache(3, capacity=6))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        model.decode(tf.constant(tokens[:, 5:7]), cache)


def test_a_step_of_one_token_makes_no_part_of_a_kernel_and_no_scaled_cache(model_of):
    # Both would cost more than all the rest of the step.
    model, capacity = model_of(), 11
    signature = [tf.TensorSpec((None, 1), tf.int32), model.cache_spec(capacity)]
    graph = tf.function(model.decode, input_signature=signature).get_concrete_function().graph
    made = [
        (operation.type, tuple(output.shape))
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank is not None
    ]
    config = model.config
    assert (config.dim, config.mlp_dim) not in [shape for _, shape in made]
    assert [shape for kind, shape in made if kind == "Mul" and shape[-2:-1] == (capacity,)] == []
