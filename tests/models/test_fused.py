"""Each gradient is that of the same formula written out, however it is run."""

import numpy as np
import pytest
import tensorflow as tf

from models.fused import gated, rms_normalized
from models.layers import attend

RANDOM = np.random.default_rng(0)
CAUSAL = np.where(np.arange(7) > np.arange(5)[:, np.newaxis] + 2, -1e9, 0.0).astype(np.float32)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def plain_gated(gate, up):
    return gate * tf.sigmoid(gate) * up


def plain_norm(x, scale):
    return x / tf.sqrt(tf.reduce_mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def norm(x, scale):
    return rms_normalized(x, scale, 1e-5)


def plain_attend(queries, keys, values, bias):
    keys, values = (tf.repeat(x, 3, axis=1) for x in (keys, values))
    scores = tf.matmul(queries, keys, transpose_b=True) * keys.shape[-1] ** -0.5
    return tf.matmul(tf.nn.softmax(scores if bias is None else scores + bias), values)


ATTENDED = (normal(2, 6, 5, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 8))
CASES = {
    "gated": (gated, plain_gated, (3 * normal(4, 5, 6), normal(4, 5, 6))),
    "norm": (norm, plain_norm, (normal(4, 5, 16), 1 + 0.2 * normal(16))),
    "norm of heads": (norm, plain_norm, (normal(2, 3, 5, 8), 1 + 0.2 * normal(8))),
    "attend": (lambda *x: attend(*x), lambda *x: plain_attend(*x, None), ATTENDED),
    "attend, masked": (lambda *x: attend(*x, CAUSAL), lambda *x: plain_attend(*x, CAUSAL), ATTENDED),
}


def with_gradients(function, arguments, upstream):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        result = function(*arguments)
    return result, *tape.gradient(result, arguments, upstream)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_those_of_the_plain_formula(name, dtype, mode):
    function, plain, arguments = CASES[name]
    # The scale of a norm is float32 always.
    dtypes = [dtype, "float32"] if name.startswith("norm") else [dtype] * len(arguments)
    arguments = [tf.cast(x, of) for x, of in zip(arguments, dtypes, strict=True)]
    upstream = tf.cast(np.random.default_rng(1).normal(size=function(*arguments).shape), dtype)
    exact = with_gradients(plain, [tf.cast(x, "float32") for x in arguments], tf.cast(upstream, "float32"))
    run = with_gradients if mode == "eager" else tf.function(with_gradients, jit_compile=mode == "xla")
    bound = 1e-5 if dtype == "float32" else 2**-6  # bfloat16 has 8 bits
    for found, wanted, of in zip(run(function, arguments, upstream), exact, [dtype, *dtypes], strict=True):
        assert found.dtype == of
        assert np.mean(abs(tf.cast(found, "float32") - wanted)) < bound * np.std(wanted)
