"""Decoding through the cache, chunk by chunk, for the tests of the models."""

import functools

import numpy as np
import tensorflow as tf


@functools.cache
def compiled_decode(model):
    """`model.decode` in one trace for any length."""
    signature = [tf.TensorSpec((None, None), tf.int32), model.cache_spec(model.config.context_length)]
    return tf.function(model.decode, input_signature=signature)


def decoded(model, tokens, split, *, padding=None):
    """Logits of (batch, length) tokens, given to the cache in chunks."""
    cache = model.make_cache(len(tokens), padding=padding)
    logits, start = [], 0
    for length in split:
        chunk, cache = compiled_decode(model)(tf.constant(tokens[:, start : start + length]), cache)
        logits.append(chunk)
        start += length
    assert start == tokens.shape[1] == int(cache.length)
    return np.concatenate(logits, axis=1)
