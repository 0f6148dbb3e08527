import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from training.config import OptimizerConfig
from training.optimizer import is_decayed, learning_rate_schedule, make_optimizer


def expected_rate(step, *, peak, ratio, warmup, num_steps):
    """Linear to the peak, from one part of it in `warmup + 1`; then half a cosine down to `ratio` of it."""
    if step < warmup:
        first = peak / (warmup + 1)
        return first + (peak - first) * step / warmup
    progress = min(1.0, (step - warmup) / (num_steps - warmup))
    return peak * (ratio + (1 - ratio) * (1 + math.cos(math.pi * progress)) / 2)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_the_learning_rate_warms_up_linearly_and_falls_along_a_cosine(warmup):
    config = OptimizerConfig(learning_rate=0.02, final_learning_rate_ratio=0.25, warmup_steps=warmup)
    schedule = learning_rate_schedule(config, 40)
    rates = [float(schedule(step)) for step in range(50)]
    expected = [expected_rate(s, peak=0.02, ratio=0.25, warmup=warmup, num_steps=40) for s in range(50)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)  # float32
    assert max(rates) == rates[warmup] == pytest.approx(0.02)
    assert rates[40] == pytest.approx(0.005)
    assert rates[0] > 0


def test_a_warm_up_as_long_as_the_run_ends_at_the_peak():
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=0.02, warmup_steps=10), 10)
    assert float(schedule(10)) == pytest.approx(0.02)


def small_model():
    keras.utils.set_random_seed(1)
    sizes = {"dim": 12, "num_layers": 1, "num_heads": 3, "num_kv_heads": 1, "mlp_dim": 20}
    return TransformerLM(TransformerLMConfig(vocab_size=11, context_length=7, qk_norm=True, **sizes))


def test_weight_decay_shrinks_matrices_and_embeddings_and_nothing_else():
    """With no gradient, decay is all that an update does: w - rate * decay * w."""
    model = small_model()
    frequencies = keras.Variable(np.ones((2, 3)), name="frequencies", dtype="float32")
    bias = keras.Variable(np.ones(5), name="bias", dtype="float32")
    variables = [*model.trainable_variables, frequencies, bias]
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.5)
    optimizer = make_optimizer(config, variables, num_steps=10)
    before = [variable.numpy() for variable in variables]
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])
    shrunk = set()
    for variable, old in zip(variables, before, strict=True):
        if (variable.numpy() != old).any():
            np.testing.assert_allclose(variable.numpy(), old * (1 - 0.1 * 0.5), rtol=1e-5)
            shrunk.add(variable.path)
    assert shrunk == {
        "transformer_lm/embedding/embeddings",
        "transformer_lm/block_0/attention/qkv/kernel",
        "transformer_lm/block_0/attention/output/kernel",
        "transformer_lm/block_0/mlp/gate_and_up/kernel",
        "transformer_lm/block_0/mlp/down/kernel",
    }


def test_an_update_is_that_of_the_adamw_paper():
    """Loshchilov & Hutter 2017, algorithm 2."""
    config = OptimizerConfig(
        learning_rate=0.1,
        final_learning_rate_ratio=1.0,
        warmup_steps=0,
        weight_decay=0.3,
        beta_1=0.8,
        beta_2=0.95,
    )
    generator = np.random.default_rng(2)
    weight, gradients = generator.normal(size=(2, 3)), generator.normal(size=(5, 2, 3))
    variable = keras.Variable(weight, name="kernel", dtype="float32")
    optimizer = make_optimizer(config, [variable], num_steps=10)
    mean = square = np.zeros((2, 3))
    for t, gradient in enumerate(gradients, start=1):
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        unbiased_mean, unbiased_square = mean / (1 - 0.8**t), square / (1 - 0.95**t)
        weight = weight - 0.1 * (unbiased_mean / (np.sqrt(unbiased_square) + 1e-8) + 0.3 * weight)
    np.testing.assert_allclose(variable.numpy(), weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_are_those_of_keras(jit_compile):
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=3, weight_decay=0.3)
    generator = np.random.default_rng(4)
    values = {"kernel": generator.normal(size=(5, 7)), "scale": generator.normal(size=7)}
    gradients = [[generator.normal(size=value.shape) for value in values.values()] for _ in range(10)]

    def updated(of_keras):
        variables = [keras.Variable(value, name=name, dtype="float32") for name, value in values.items()]
        optimizer = make_optimizer(config, variables, num_steps=8)
        if of_keras:
            optimizer = keras.optimizers.AdamW.from_config(optimizer.get_config())
            optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
            optimizer.build(variables)
        apply = optimizer.apply_gradients
        update = tf.function(
            lambda *given: apply(zip(given, variables, strict=True)), jit_compile=jit_compile
        )
        for of_step in gradients:
            update(*[tf.constant(gradient, tf.float32) for gradient in of_step])
        assert int(optimizer.iterations) == 10
        return [variable.numpy() for variable in [*variables, *optimizer.variables[1:]]]

    for ours, theirs in zip(updated(False), updated(True), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_the_variables_have_the_same_names_each_time():
    names = []
    for _ in range(2):
        model = small_model()
        optimizer = make_optimizer(OptimizerConfig(), model.trainable_variables, num_steps=10)
        names.append([variable.path for variable in optimizer.variables])
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0]) == 1 + 2 * len(model.trainable_variables)
