"""Decoding through the cache, chunk by chunk, for the tests of the models."""

import numpy as np
import tensorflow as tf


def decoded(model, tokens, split, *, padding=None, compiled=False):
    """Logits of (batch, length) tokens, decoded in chunks of the lengths in `split`."""
    decode = model.decode
    if compiled:  # one trace for every length
        signature = [tf.TensorSpec((None, None), tf.int32), model.cache_spec(model.config.context_length)]
        decode = tf.function(model.decode, input_signature=signature)
    cache = model.make_cache(len(tokens), padding=padding)
    logits, start = [], 0
    for length in split:
        chunk, cache = decode(tf.constant(tokens[:, start : start + length]), cache)
        logits.append(chunk)
        start += length
    assert start == tokens.shape[1] == int(cache[0].start)
    return np.concatenate(logits, axis=1)
