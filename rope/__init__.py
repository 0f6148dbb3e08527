"""Rotary position embeddings for TensorFlow 2 and Keras 3.

Public names are imported on first use (PEP 562), so that importing the package does not import TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers; `X as X` marks a public name. A test compares them with `_NAMES_IN`.
if TYPE_CHECKING:
    from rope.axial import AxialRotaryEmbedding as AxialRotaryEmbedding
    from rope.axial import MixedRotaryEmbedding as MixedRotaryEmbedding
    from rope.compat import apply_learned_rotations as apply_learned_rotations
    from rope.compat import apply_rotary_emb as apply_rotary_emb
    from rope.compat import broadcat as broadcat
    from rope.compat import rotate_half as rotate_half
    from rope.embedding import RotaryEmbedding as RotaryEmbedding
    from rope.layers import RoPE as RoPE
    from rope.layers import RotaryAttention as RotaryAttention
    from rope.layers import RotaryGroupQueryAttention as RotaryGroupQueryAttention
    from rope.layouts import convert_layout as convert_layout
    from rope.positions import grid_positions as grid_positions
    from rope.positions import positions_from_mask as positions_from_mask
    from rope.positions import positions_from_segments as positions_from_segments
    from rope.private_tensorflow import plain_operations as plain_operations
    from rope.rotation import compose as compose
    from rope.rotation import rotate as rotate
    from rope.scaling import scale_frequencies as scale_frequencies

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
