"""The rotary part of a model's configuration; imports no TensorFlow."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of one axis, as `rope.RotaryEmbedding` takes it."""

    theta: float = field(default=10_000.0, metadata={"above": 1})
    layout: Literal["interleaved", "half"] = "interleaved"
    interpolate_factor: float = field(
        default=1.0, metadata={"min": 1, "hint": "To extend a context of 256 to 512, use 2.0."}
    )
