import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import AxialViTConfig, RopeConfig, RopeScalingConfig
from models.vit import AxialViT
from tests.models.reference import randomized


@pytest.fixture(scope="module")
def models(model_of):
    """A language model and a vision transformer with options of every kind, and inputs of each."""
    scaling = RopeScalingConfig(
        type="longrope",
        short_factor=(1.0, 2.0),
        long_factor=(1.0, 3.0),
        original_max_position_embeddings=8,
        max_position_embeddings=16,
    )
    rope = RopeConfig(scaling=scaling)
    lm = model_of(dtype="mixed_bfloat16", num_layers=1, rope=rope, learned_rotations="cumulative")
    lm.document_separator = 5
    config = AxialViTConfig(dim=16, num_layers=1, mlp_dim=24, position="mixed", pooling="class_token")
    vit = randomized(AxialViT(config.for_images(8, 12, channels=3, num_classes=7)))
    tokens = np.random.default_rng(0).integers(0, 37, (2, 11)).astype(np.int32)
    return [(lm, tokens), (vit, np.random.default_rng(0).normal(size=(2, 16, 8, 3)).astype(np.float32))]


def test_a_keras_file_restores_options_and_weights(models, tmp_path):
    for model, inputs in models:
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert (loaded.config, loaded.dtype_policy) == (model.config, model.dtype_policy)
        np.testing.assert_array_equal(loaded(inputs), model(inputs))
        config = model.get_config()
        type(model).from_config(config)
        assert config == model.get_config()  # unchanged


def test_a_loaded_classifier_with_dropout_is_fitted_inside_another_model(tmp_path):
    config = AxialViTConfig(dim=16, num_layers=1, mlp_dim=24, drop_path=0.5)
    vit = AxialViT(config.for_images(4, 6, channels=1, num_classes=5))
    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Rescaling(0.1), vit])
    model.save(tmp_path / "model.keras")
    images, labels = np.random.default_rng(0).normal(size=(8, 4, 6, 1)), np.arange(8) % 5
    losses = []
    for seed in (1, 1, 2):
        loaded = keras.models.load_model(tmp_path / "model.keras")
        loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        keras.utils.set_random_seed(seed)
        fitted = loaded.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
        losses.append(fitted.history["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_an_exported_model_takes_inputs_of_any_size(models, tmp_path):
    for model, inputs in models:
        model.export(tmp_path / model.name)
        loaded = tf.saved_model.load(tmp_path / model.name)
        (spec,) = loaded.signatures["serving_default"].structured_input_signature[1].values()
        assert (spec.dtype, spec.shape.rank) == (tf.as_dtype(inputs.dtype), inputs.ndim)
        tolerance = 0.05 if model.compute_dtype == "bfloat16" else 1e-5
        np.testing.assert_allclose(loaded.serve(inputs), model(inputs), atol=tolerance)
