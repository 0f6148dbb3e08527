"""Saving and export of the models: base class of both."""

import dataclasses
import json
from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import TypeAdapter

from rope.private_tensorflow import plain_operations
from system.validation import Options


class ConfiguredModel(keras.Model):
    """Keras model of an options class, its `config`.

    `save` writes a `.keras` file, which `keras.models.load_model` reads once the module of the model is
    imported.
    """

    config: Options
    config_class: ClassVar[type[Options]]

    def get_config(self) -> dict[str, Any]:
        return {"config": dataclasses.asdict(self.config), "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConfiguredModel":
        options = TypeAdapter(cls.config_class).validate_json(json.dumps(config["config"]))
        return cls(options, **{key: value for key, value in config.items() if key != "config"})

    def input_spec_for_export(self) -> tf.TensorSpec:
        """Shape and dtype of the inputs, None for each size that may vary."""
        raise NotImplementedError

    def export(self, filepath: str, format: str = "tf_saved_model", **options) -> None:
        """`keras.Model.export` for inputs of every size; attention is computed in full, not in chunks."""
        options = {"input_signature": [self.input_spec_for_export()], "verbose": False, **options}
        with plain_operations():
            super().export(filepath, format=format, **options)
