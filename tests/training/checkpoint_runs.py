"""Small model with checkpoints."""

import os

import keras
import numpy as np

from training.checkpoints import Checkpoints, complete_checkpoints
from training.config import OptimizerConfig
from training.optimizer import make_optimizer

EMBEDDING = "model/stack/embedding/embeddings"
FILES = ["manifest.json", "manifest.sha256", "tensors.data-00000-of-00001", "tensors.index"]


def make_stack(num_layers, dim):
    """Embedding and dense layers."""
    layers = [keras.Input((1,), dtype="int32"), keras.layers.Embedding(7, dim, name="embedding")]
    layers += [keras.layers.Dense(dim, name=f"dense_{index}") for index in range(num_layers)]
    return keras.Sequential(layers, name="stack")


class Run:
    """Model and optimizer with values drawn from a seed, and their checkpoints."""

    def __init__(self, path, *, seed=0, keep=2, keep_best=False, num_layers=1, dim=6):
        path.mkdir(exist_ok=True)
        self.model = make_stack(num_layers, dim)
        config, variables = OptimizerConfig(name="adamw"), self.model.trainable_variables
        self.optimizer = make_optimizer(config, variables, num_steps=9)
        limits = {"keep": keep, "keep_best": keep_best}
        self.checkpoints = Checkpoints(path / "checkpoints", self.model, self.optimizer, **limits)
        self.fill(seed)

    def fill(self, seed):
        generator = np.random.default_rng(seed)
        for variable in self.checkpoints.variables.values():
            variable.assign(generator.normal(size=variable.shape) if len(variable.shape) else seed)

    def values(self):
        return {name: variable.numpy() for name, variable in self.checkpoints.variables.items()}

    def save(self, step, *, seed=None, **facts):
        """Saves values drawn from `seed`, or from the step."""
        self.fill(step if seed is None else seed)
        return self.checkpoints.save(step, {"data_fingerprint": "abc", **facts})

    def names(self):
        return [path.name for path in complete_checkpoints(self.checkpoints.directory)]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)
