"""Learning-rate schedule, AdamW and Muon against their definitions in NumPy and against Keras."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import AxialViTConfig, TransformerLMConfig
from models.transformer import TransformerLM
from models.vit import AxialViT
from training.config import OptimizerConfig
from training.optimizer import POLYNOMIALS, is_decayed, learning_rate_schedule, make_optimizer, orthogonalize

CONSTANT = {"learning_rate": 0.1, "final_learning_rate_ratio": 1.0, "warmup_steps": 0, "weight_decay": 0.3}
MATRICES_OF_A_BLOCK = ("attention/qkv", "attention/output", "mlp/gate_and_up", "mlp/down")


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def small_model():
    keras.utils.set_random_seed(1)
    sizes = {"dim": 12, "num_layers": 1, "num_heads": 3, "num_kv_heads": 1, "mlp_dim": 20}
    return TransformerLM(TransformerLMConfig(vocab_size=11, context_length=7, qk_norm=True, **sizes))


def hidden_matrix(value):
    with keras.name_scope("model"), keras.name_scope("block_0"):
        return keras.Variable(value, name="kernel", dtype="float32")


def make_update(optimizer, variables, *, jit_compile=False):
    """Compiled update, inside a condition as in a training step."""

    def apply(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    @tf.function(jit_compile=jit_compile)
    def update(gradients):
        if tf.math.is_finite(tf.linalg.global_norm(gradients)):
            apply(gradients)

    return lambda gradients: update([tf.constant(gradient, tf.float32) for gradient in gradients])


def expected_rate(step, *, peak, ratio, warmup, num_steps):
    """Linear from `peak / (warmup + 1)` to the peak; then half a cosine down to `ratio` of it."""
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
    whole_run = learning_rate_schedule(config, max(1, warmup))
    assert float(whole_run(warmup)) == pytest.approx(0.02)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_applies_to_matrices_and_embeddings_only(name):
    """The update for a gradient of zeros is the decay alone: w - rate * decay * w."""
    model = small_model()
    frequencies = keras.Variable(np.ones((2, 3)), name="frequencies", dtype="float32")
    bias = keras.Variable(np.ones(5), name="bias", dtype="float32")
    variables = [*model.trainable_variables, frequencies, bias]
    optimizer = make_optimizer(OptimizerConfig(name=name, **CONSTANT), variables, num_steps=10)
    before = [variable.numpy() for variable in variables]
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])
    decayed = set()
    for variable, old in zip(variables, before, strict=True):
        if (variable.numpy() != old).any():
            np.testing.assert_allclose(variable.numpy(), old * (1 - 0.1 * 0.3), rtol=1e-5)
            decayed.add(variable.path)
    blocks = {f"transformer_lm/block_0/{part}/kernel" for part in MATRICES_OF_A_BLOCK}
    assert decayed == {"transformer_lm/embedding/embeddings", *blocks}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fused_adamw_updates_equal_those_of_keras(jit_compile):
    config = OptimizerConfig(name="adamw", learning_rate=0.1, warmup_steps=3, weight_decay=0.3)
    values = {"kernel": normal(5, 7), "scale": normal(7, seed=2)}

    def updated(*, use_keras):
        variables = [keras.Variable(value, name=name, dtype="float32") for name, value in values.items()]
        optimizer = make_optimizer(config, variables, num_steps=8)
        if use_keras:
            optimizer = keras.optimizers.AdamW.from_config(optimizer.get_config())
            optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
            optimizer.build(variables)
        update = make_update(optimizer, variables, jit_compile=jit_compile)
        for step in range(10):
            update([normal(*variable.shape, seed=step) for variable in variables])
        assert int(optimizer.iterations) == 10
        return [variable.numpy() for variable in [*variables, *optimizer.variables[1:]]]

    for fused, reference in zip(updated(use_keras=False), updated(use_keras=True), strict=True):
        np.testing.assert_allclose(fused, reference, rtol=0, atol=1e-6)


def orthogonal(matrix):
    """Newton-Schulz iteration of Jordan et al. 2024 with its own coefficients, in float64."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / np.linalg.norm(x)
    for a, b, c in POLYNOMIALS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def test_matrices_are_orthogonalized_together():
    shapes = [(3, 5), (8, 3), (64, 64), (64, 192), (3, 3)]
    matrices = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    results = orthogonalize([tf.constant(1e-3 * matrix, tf.float32) for matrix in matrices])
    for matrix, result in zip(matrices, results, strict=True):
        np.testing.assert_allclose(result, orthogonal(matrix), rtol=0, atol=1e-4)
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        change = np.diag(left.T @ result.numpy() @ right.T)[singular > 0.01 * np.linalg.norm(matrix)]
        assert change.min() > 0.72 and change.max() < 1.28
    (zeros,) = orthogonalize([tf.zeros((3, 5))])
    np.testing.assert_array_equal(zeros, np.zeros((3, 5)))


@pytest.mark.parametrize(("shape", "jit_compile"), [((3, 5), False), ((5, 3), False), ((5, 3), True)])
def test_a_muon_update_is_an_orthogonalized_momentum_with_the_rms_of_adamw(shape, jit_compile):
    weight, momentum = normal(*shape), np.zeros(shape)
    variable = hidden_matrix(weight)
    optimizer = make_optimizer(OptimizerConfig(name="muon", **CONSTANT), [variable], num_steps=10)
    update = make_update(optimizer, [variable], jit_compile=jit_compile)
    for gradient in normal(4, *shape, seed=2):
        update([gradient])
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = orthogonal(0.95 * momentum + 0.05 * gradient)
        weight = weight * (1 - 0.1 * 0.3) - 0.1 * 0.2 * np.sqrt(5) * direction
    np.testing.assert_allclose(variable, weight, rtol=0, atol=1e-4)
    assert int(optimizer.iterations) == 4


@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_weights_that_muon_does_not_update_have_a_multiple_of_its_learning_rate(ratio):
    gain = keras.Variable([1.0, 2.0], name="gain", dtype="float32")
    config = OptimizerConfig(name="muon", adamw_learning_rate_ratio=ratio, **CONSTANT)
    make_update(make_optimizer(config, [gain], num_steps=10), [gain])([[0.5, -3.0]])
    np.testing.assert_allclose(
        gain, [1 - 0.1 * ratio, 2 + 0.1 * ratio], rtol=1e-5
    )  # the first update of Adam


def test_muon_updates_the_matrices_inside_the_blocks_and_adamw_the_rest():
    sizes = {"image_size": (4, 6), "channels": 1, "num_classes": 3, "patch_size": 2}
    vit = AxialViT(AxialViTConfig(**sizes, dim=8, num_layers=1, num_heads=2, mlp_dim=12, position="mixed"))
    for model in (small_model(), vit):
        variables = model.trainable_variables
        optimizer = make_optimizer(OptimizerConfig(name="muon"), variables, num_steps=10)
        paths = {variable.path for variable in optimizer.variables}
        assert len(paths) == len(optimizer.variables)
        slot = {v.path: f"muon/{v.path.replace('/', '_')}" for v in variables}
        assert all(f"{name}_momentum" in paths for name in slot.values())
        assert {path for path, name in slot.items() if f"{name}_velocity" not in paths} == {
            f"{model.name}/block_0/{part}/kernel" for part in MATRICES_OF_A_BLOCK
        }
