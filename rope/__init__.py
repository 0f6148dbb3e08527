"""Rotary position embeddings for TensorFlow 2 and Keras 3.

Public names are imported on first use (PEP 562), so that importing the package does not import TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers; `X as X` marks a public name. A test compares them with `_NAMES_IN`.
if TYPE_CHECKING:
    from rope.apply import apply_learned_rotations as apply_learned_rotations
    from rope.apply import apply_rotary_emb as apply_rotary_emb
    from rope.apply import broadcat as broadcat
    from rope.apply import rotate_half as rotate_half
    from rope.axial import MixedRotaryEmbedding as MixedRotaryEmbedding
    from rope.axial import axial_angles as axial_angles
    from rope.axial import grid_angles as grid_angles
    from rope.axial import grid_positions as grid_positions
    from rope.axial import mixed_frequencies as mixed_frequencies
    from rope.embedding import RotaryEmbedding as RotaryEmbedding
    from rope.frequencies import constant_frequencies as constant_frequencies
    from rope.frequencies import language_frequencies as language_frequencies
    from rope.frequencies import pixel_frequencies as pixel_frequencies
    from rope.frequencies import rotary_dim as rotary_dim
    from rope.layers import RoPE as RoPE
    from rope.layers import RotaryAttention as RotaryAttention
    from rope.layers import RotaryGroupQueryAttention as RotaryGroupQueryAttention
    from rope.layouts import convert_layout as convert_layout
    from rope.layouts import layout_permutation as layout_permutation
    from rope.positions import positions_from_cache as positions_from_cache
    from rope.positions import positions_from_mask as positions_from_mask
    from rope.positions import positions_from_padding as positions_from_padding
    from rope.positions import positions_from_segments as positions_from_segments
    from rope.rotation import doubled as doubled
    from rope.rotation import rotary_angles as rotary_angles
    from rope.rotation import rotary_table as rotary_table
    from rope.rotation import rotate as rotate
    from rope.scaling import scale as scale
    from rope.scaling import with_original_length as with_original_length
    from rope.xpos import xpos_decays as xpos_decays
    from rope.xpos import xpos_scales as xpos_scales

_NAMES_IN = {
    "rope.apply": ("apply_learned_rotations", "apply_rotary_emb", "broadcat", "rotate_half"),
    "rope.axial": (
        "MixedRotaryEmbedding",
        "axial_angles",
        "grid_angles",
        "grid_positions",
        "mixed_frequencies",
    ),
    "rope.embedding": ("RotaryEmbedding",),
    "rope.frequencies": ("constant_frequencies", "language_frequencies", "pixel_frequencies", "rotary_dim"),
    "rope.layers": ("RoPE", "RotaryAttention", "RotaryGroupQueryAttention"),
    "rope.layouts": ("convert_layout", "layout_permutation"),
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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rope' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
