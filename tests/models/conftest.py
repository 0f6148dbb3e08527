import functools

import numpy as np
import pytest

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from tests.models.reference import randomized

# Sizes that differ on every axis: 37 tokens, 13 positions, 6 heads of 4 features.
SIZES = {
    "vocab_size": 37,
    "context_length": 13,
    "dim": 24,
    "num_layers": 2,
    "num_heads": 6,
    "num_kv_heads": 6,
    "mlp_dim": 20,
    "qk_norm": False,
}


@functools.cache
def _model(dtype, items):
    return randomized(TransformerLM(TransformerLMConfig(**(SIZES | dict(items))), dtype=dtype))


@pytest.fixture(scope="session")
def model_of():
    """`model_of(dtype=..., **config)`: a tiny model with large random weights, shared by equal calls."""

    def model_of(*, dtype="float32", **options):
        return _model(dtype, tuple(options.items()))

    return model_of


@pytest.fixture(scope="session")
def tokens():
    """(3, 13) tokens."""
    return np.random.default_rng(1).integers(0, 37, (3, 13)).astype(np.int32)
