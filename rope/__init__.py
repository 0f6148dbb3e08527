"""Rotary position embeddings for TensorFlow 2 and Keras 3.

Public names are imported on first use (PEP 562), so that importing the package does not import TensorFlow.
Type checkers read them in `__init__.pyi`.
"""

import importlib
from typing import Any

_NAMES_IN = {
    "rope.axial": ("AxialRotaryEmbedding", "MixedRotaryEmbedding"),
    "rope.compat": ("apply_learned_rotations", "apply_rotary_emb", "broadcat", "rotate_half"),
    "rope.embedding": ("RotaryEmbedding",),
    "rope.layouts": ("convert_layout",),
    "rope.layers": ("RoPE", "RotaryAttention", "RotaryGroupQueryAttention"),
    "rope.positions": ("grid_positions", "positions_from_mask", "positions_from_segments"),
    "rope.private_tensorflow": ("plain_operations",),
    "rope.rotation": ("compose", "rotate"),
    "rope.scaling": ("scale_frequencies",),
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rope' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
