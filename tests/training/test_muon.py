"""Muon against its definition in NumPy, Keras' own, and AdamW."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import AxialViTConfig, TransformerLMConfig
from models.transformer import TransformerLM
from models.vit import AxialViT
from training.config import OptimizerConfig
from training.muon import orthogonalised
from training.optimizer import is_hidden_matrix, make_optimizer
from training.step import make_train_step

CONFIG = OptimizerConfig(
    name="muon", learning_rate=0.1, final_learning_rate_ratio=1.0, warmup_steps=0, weight_decay=0.3
)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def small_model(**options):
    keras.utils.set_random_seed(1)
    sizes = {"dim": 12, "num_layers": 2, "num_heads": 3, "num_kv_heads": 1, "mlp_dim": 20}
    return TransformerLM(TransformerLMConfig(vocab_size=11, context_length=7, **sizes, **options))


def hidden_matrix(value):
    with keras.name_scope("model"), keras.name_scope("block_0"):
        return keras.Variable(value, name="kernel", dtype="float32")


def quintic(matrix):
    """The published iteration, in float64."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
def test_orthogonalised_matrices_keep_their_singular_vectors_and_get_values_near_1(shape):
    matrix = normal(*shape)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    (found,) = orthogonalised([tf.constant(1e-3 * matrix, tf.float32)])
    of_vectors = left.T @ found.numpy().astype(np.float64) @ right.T
    values = np.diag(of_vectors)
    assert values.min() > 0.6 and values.max() < 1.2
    np.testing.assert_allclose(of_vectors, np.diag(values), rtol=0, atol=1e-4)  # float32, five iterations


def test_matrices_of_equal_shapes_and_their_transposes_do_not_mix():
    matrices = [
        normal(*shape, seed=seed) for seed, shape in enumerate([(3, 5), (5, 3), (3, 3), (3, 5), (5, 5)])
    ]
    together = orthogonalised([tf.constant(matrix, tf.float32) for matrix in matrices])
    for matrix, found in zip(matrices, together, strict=True):
        expected = quintic(matrix) if len(matrix) <= len(matrix.T) else quintic(matrix.T).T
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32, five iterations


def test_a_gradient_of_zeros_is_no_direction():
    (found,) = orthogonalised([tf.zeros((3, 5))])
    np.testing.assert_array_equal(found, np.zeros((3, 5)))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_an_update_is_an_orthogonalised_momentum_of_the_size_of_adamw(shape, jit_compile):
    variable = hidden_matrix(normal(*shape))
    optimizer = make_optimizer(CONFIG, [variable], num_steps=10)
    update = tf.function(
        lambda gradient: optimizer.apply_gradients([(gradient, variable)]), jit_compile=jit_compile
    )
    weight, momentum = normal(*shape), np.zeros(shape)
    for gradient in normal(4, *shape, seed=2):
        update(tf.constant(gradient, tf.float32))
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.95 * momentum + 0.05 * gradient
        direction = quintic(ahead) if shape == (3, 5) else quintic(ahead.T).T
        weight = weight * (1 - 0.1 * 0.3) - 0.1 * 0.2 * np.sqrt(5) * direction
    np.testing.assert_allclose(variable, weight, rtol=0, atol=1e-4)  # float32, four times five iterations
    assert int(optimizer.iterations) == 4


def test_updates_are_those_of_keras():
    weight, gradients = normal(4, 6), normal(5, 4, 6, seed=2)
    variable, twin = hidden_matrix(weight), hidden_matrix(weight)
    optimizer = make_optimizer(CONFIG, [variable], num_steps=10)
    keras_own = keras.optimizers.Muon(learning_rate=0.1, weight_decay=0.3, rms_rate=0.2, momentum=0.95)
    for gradient in tf.constant(gradients, tf.float32):
        optimizer.apply_gradients([(gradient, variable)])
        keras_own.apply_gradients([(gradient, twin)])
    np.testing.assert_allclose(variable, twin, rtol=0, atol=1e-4)


def test_the_rest_is_updated_as_by_adamw():
    gradients = None
    found = {}
    for name in ("muon", "adamw"):
        model = small_model()
        variables = model.trainable_variables
        gradients = gradients or [tf.constant(normal(*v.shape), tf.float32) for v in variables]
        config = OptimizerConfig(name=name, learning_rate=0.1, warmup_steps=0)
        optimizer = make_optimizer(config, variables, num_steps=10)
        for _ in range(3):
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        found[name] = {variable.path: variable.numpy() for variable in variables}
    same = {path for path, value in found["muon"].items() if (value == found["adamw"][path]).all()}
    assert found["muon"].keys() - same == {
        f"transformer_lm/block_{index}/{part}/kernel"
        for index in range(2)
        for part in ("attention/qkv", "attention/output", "mlp/gate_and_up", "mlp/down")
    }


def test_of_a_vision_transformer_patches_positions_and_head_are_left_to_adamw():
    sizes = {"image_size": (4, 6), "channels": 1, "num_classes": 3, "patch_size": 2}
    model = AxialViT(AxialViTConfig(**sizes, dim=8, num_layers=1, num_heads=2, mlp_dim=12, position="mixed"))
    parts = {variable.path for variable in model.trainable_variables if is_hidden_matrix(variable)}
    assert parts == {
        f"axial_vit/block_0/{part}/kernel"
        for part in ("attention/qkv", "attention/output", "mlp/gate_and_up", "mlp/down")
    }


def test_a_matrix_has_a_momentum_and_no_velocity():
    model = small_model()
    optimizer = make_optimizer(CONFIG, model.trainable_variables, num_steps=10)
    paths = [variable.path for variable in optimizer.variables]
    assert len(set(paths)) == len(paths)
    of_matrix = [path for path in paths if "qkv" in path]
    assert len(of_matrix) == 2 and all(path.endswith("momentum") for path in of_matrix)
    assert len([path for path in paths if "embedding" in path]) == 2


def test_a_step_that_is_not_finite_changes_nothing():
    model = small_model()
    optimizer = make_optimizer(CONFIG, model.trainable_variables, num_steps=10)
    step = make_train_step(
        model,
        optimizer,
        accumulation_steps=1,
        clip_norm=1.0,
        label_smoothing=0.0,
        seed=0,
        compile_mode="graph",
    )
    tokens = tf.constant([[1, 2, 3], [4, 5, 6]])
    assert bool(step(tf.constant(0), tokens, tokens).finite)
    model.embedding.embeddings.assign(np.full((11, 12), np.nan))
    before = [variable.numpy() for variable in (*model.variables, *optimizer.variables)]
    assert not bool(step(tf.constant(1), tokens, tokens).finite)
    for variable, value in zip((*model.variables, *optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(variable, value)
