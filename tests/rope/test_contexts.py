"""Every context of TensorFlow in which a rotation runs: the table "Where it runs" of `rope/README.md`."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding, plain_operations
from tests.rope.reference import angles_of, language, normal, turned

README = pathlib.Path(__file__).resolve().parents[2] / "rope" / "README.md"
ANY_SIZE = [tf.TensorSpec((None, None, 8))]


def while_loop(rotate):
    return lambda x: tf.while_loop(lambda i, _: i < 1, lambda i, y: (i + 1, rotate(y)), (0, x))[1]


def cond(rotate):
    return lambda x: tf.cond(tf.reduce_all(x < 99), lambda: rotate(x), lambda: x)


def in_xla(function):
    return tf.function(function, jit_compile=True)


def of_example(rotate):
    return lambda x: rotate(x[tf.newaxis])[0]


def gradient(rotate):
    """Gradient for an upstream gradient of x."""

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            rotated = rotate(x)
        return tape.gradient(rotated, x, output_gradients=x)

    return run


def jvp(rotate):
    """Jvp of the tangent x."""

    def run(x):
        with tf.autodiff.ForwardAccumulator(x, x) as accumulator:
            rotated = rotate(x)
        return accumulator.jvp(rotated)

    return run


def mirrored(rotate):
    strategy = tf.distribute.MirroredStrategy(tf.config.list_logical_devices("CPU"))
    return lambda x: strategy.experimental_local_results(tf.function(strategy.run)(rotate, (x,)))[-1]


def exported(rotate):
    """A rotation for converters, which know neither nested functions nor complex numbers."""
    function = tf.function(rotate)

    def run(x):
        with plain_operations():
            operations = {each.type for each in function.get_concrete_function(x).graph.get_operations()}
        assert not {"PartitionedCall", "StatefulPartitionedCall", "Complex", "Bitcast"} & operations
        return function(x)

    return run


CONTEXTS = {
    "eager": lambda rotate: [rotate],
    "`tf.function`, static and unknown sizes": lambda rotate: [
        tf.function(rotate),
        tf.function(rotate, input_signature=ANY_SIZE),
    ],
    "`jit_compile=True`": lambda rotate: [in_xla(rotate)],
    "`jit_compile=True` around a `tf.function`": lambda rotate: [
        in_xla(tf.function(rotate)),
        in_xla(tf.function(rotate, input_signature=ANY_SIZE)),
    ],
    "`plain_operations()` around a `tf.function`": lambda rotate: [exported(rotate)],
    "`tf.data.Dataset.map`": lambda rotate: [
        lambda x: next(iter(tf.data.Dataset.from_tensors(x).map(rotate)))
    ],
    "`tf.while_loop`": lambda rotate: [tf.function(while_loop(rotate)), in_xla(while_loop(rotate))],
    "`tf.cond`": lambda rotate: [tf.function(cond(rotate)), in_xla(cond(rotate))],
    "`tf.map_fn`, `tf.vectorized_map`": lambda rotate: [
        tf.function(lambda x: tf.map_fn(of_example(rotate), x)),
        tf.function(lambda x: tf.vectorized_map(of_example(rotate), x)),
    ],
    "`tf.recompute_grad`": lambda rotate: [tf.function(tf.recompute_grad(rotate))],
    "`tf.GradientTape`": lambda rotate: [
        gradient(rotate),
        in_xla(gradient(rotate)),
        gradient(tf.function(rotate)),
        tf.function(gradient(while_loop(rotate))),
    ],
    "`tf.autodiff.ForwardAccumulator`": lambda rotate: [
        jvp(rotate),
        in_xla(jvp(rotate)),
        jvp(tf.function(rotate)),
        tf.function(jvp(cond(rotate))),
    ],
    "`tf.distribute.MirroredStrategy`": lambda rotate: [mirrored(rotate)],
}


# TensorFlow operations, a nested function, fused by XLA; `test_rotation.py` tests gradients and loops.
FAST = list(CONTEXTS)[:3]


@pytest.mark.parametrize(
    "context", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CONTEXTS]
)
def test_a_rotation_runs_in_every_context(context):
    x = normal(2, 5, 8)
    plain = RotaryEmbedding(8)
    xpos = RotaryEmbedding(8, layout="half", use_xpos=True, learned_freq=True)
    angles, scale = angles_of(range(5), language(8)), xpos.get_scale(range(5)).numpy()
    transposed = -1 if context == "`tf.GradientTape`" else 1  # the gradient is the inverse rotation
    for rotate, expected in (
        (lambda x: plain.rotate_queries_or_keys(x), turned(x, transposed * angles)),
        (lambda x: xpos.rotate_queries_and_keys(x, x)[0], turned(x, transposed * angles, "half") * scale),
    ):
        for run in CONTEXTS[context](rotate):
            np.testing.assert_allclose(run(tf.constant(x)), expected, rtol=1e-5, atol=1e-5)  # float32


def test_the_readme_lists_every_context():
    table = README.read_text().partition("## Where it runs")[2].partition("\n## ")[0]
    rows = [row.split(" | ")[0].removeprefix("| ") for row in re.findall(r"^\| .*$", table, re.MULTILINE)]
    assert rows[1:] == list(CONTEXTS)
