"""Rotary position embeddings for TensorFlow 2 and Keras 3.

Public names are resolved on first use (PEP 562), so that importing the package, or its
configuration, does not import TensorFlow.
"""

import importlib

_MODULE_OF = {
    "RopeConfig": "rope.config",
    "RotaryEmbedding": "rope.embedding",
    "RotaryTable": "rope.rotation",
    "language_frequencies": "rope.frequencies",
    "positions_from_padding": "rope.positions",
    "rotary_angles": "rope.rotation",
    "rotary_table": "rope.rotation",
    "rotate": "rope.rotation",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rope' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
