"""Rotary position embeddings for TensorFlow 2 and Keras 3.

Public names are resolved on first use (PEP 562), so that importing the package, or its
configuration, does not import TensorFlow.
"""

import importlib

_NAMES_IN = {
    "rope.apply": ("apply_learned_rotations", "apply_rotary_emb", "broadcat", "rotate_half"),
    "rope.axial": (
        "MixedRotaryEmbedding",
        "axial_angles",
        "grid_angles",
        "grid_positions",
        "mixed_frequencies",
    ),
    "rope.config": ("AxialRopeConfig", "AxialScalingConfig", "RopeConfig", "RopeScalingConfig"),
    "rope.embedding": ("RotaryEmbedding",),
    "rope.frequencies": ("constant_frequencies", "language_frequencies", "pixel_frequencies", "rotary_dim"),
    "rope.layouts": ("convert_layout", "layout_permutation"),
    "rope.peers": ("RoPE",),
    "rope.positions": (
        "positions_from_cache",
        "positions_from_mask",
        "positions_from_padding",
        "positions_from_segments",
    ),
    "rope.rotation": ("doubled", "rotary_angles", "rotary_table", "rotate"),
    "rope.scaling": ("scale", "with_original_length"),
    "rope.xpos": ("xpos_decays", "xpos_scales"),
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rope' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
