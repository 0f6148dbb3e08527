"""Contract of Keras layers, which one helper puts a layer through."""

import json

import keras
import numpy as np
import tensorflow as tf


def check_contract(make, inputs, tmp_path, *, rtol=1e-5, atol=2e-5):
    """Checks a layer eagerly, symbolically, in a graph, under XLA, frozen, from its config and from a file.

    Args:
        make: function of `name`, `dtype` and `trainable` that creates the layer.
        inputs: array, or list of arrays, that the layer is called on.
        tmp_path: folder for the file.
    """
    layer = make(name="mine", dtype="float32", trainable=True)
    expected = layer(inputs)
    assert layer.name == "mine" and layer.built
    for compiled in (tf.function(layer), tf.function(layer, jit_compile=True)):
        check_equal(compiled(inputs), expected, rtol=rtol, atol=atol)

    symbolic = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:], len(x), dtype=x.dtype), inputs)
    specs = layer.compute_output_spec(symbolic)
    shapes = layer.compute_output_shape(keras.tree.map_structure(lambda x: x.shape, inputs))
    if not isinstance(expected, list | tuple):
        specs, shapes, expected = [specs], [shapes], [expected]
    for spec, shape, result in zip(specs, shapes, expected, strict=True):
        assert tuple(shape) == tuple(spec.shape) == tuple(result.shape)
        assert spec.dtype == result.dtype.name

    for weight in layer.weights:
        weight.assign(weight * 1.1)
    model = keras.Model(symbolic, layer(symbolic))
    for is_trainable in (True, False):
        layer.trainable = is_trainable
        assert len(model.trainable_weights) == (len(layer.weights) if is_trainable else 0)
        config = json.loads(json.dumps(layer.get_config()))
        assert type(layer).from_config(config).get_config() == layer.get_config()
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.get_layer("mine").trainable == is_trainable
        assert len(loaded.trainable_weights) == len(model.trainable_weights)
        check_equal(loaded(inputs), model(inputs), rtol=0, atol=0)
    assert not make(trainable=False).trainable_weights


def check_equal(results, expected, *, rtol, atol):
    for one, other in zip(keras.tree.flatten(results), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
