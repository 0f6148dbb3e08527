"""Saving and export of both models."""

import dataclasses
import json
from typing import Any, ClassVar

import keras
import tensorflow as tf
from pydantic import TypeAdapter

from rope.private_tensorflow import plain_operations
from system.validation import Options


class ConfiguredModel(keras.Model):
    """Keras model that is saved with its options, `config`, and exported for inputs of any size."""

    config_class: ClassVar[type[Options]]
    config: Options
    export_spec: tf.TensorSpec  # of the inputs

    def get_config(self) -> dict[str, Any]:
        return {"config": dataclasses.asdict(self.config), "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConfiguredModel":
        options = TypeAdapter(cls.config_class).validate_json(json.dumps(config["config"]))
        return cls(**{**config, "config": options})

    def export(self, filepath: str, format: str = "tf_saved_model", **options) -> None:
        """Exports for inputs of any size, as `keras.Model.export`; attention is computed in full."""
        options = {"input_signature": [self.export_spec], "verbose": False, **options}
        with plain_operations():
            super().export(filepath, format=format, **options)
