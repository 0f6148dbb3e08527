"""Model configurations; imports no TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rope.config import RopeConfig


@dataclass(frozen=True)
class TransformerLMConfig:
    """Decoder-only language model: see `models.transformer.TransformerLM`."""

    vocab_size: int = field(default=256, metadata={"min": 1})
    context_length: int = field(default=256, metadata={"min": 1})
    dim: int = field(default=128, metadata={"min": 1})
    num_layers: int = field(default=4, metadata={"min": 1})
    num_heads: int = field(default=4, metadata={"min": 1})
    num_kv_heads: int = field(default=4, metadata={"min": 1})
    mlp_dim: int = field(default=384, metadata={"min": 1})
    position: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "rotary"
    qk_norm: bool = False
    dropout: float = field(default=0.0, metadata={"min": 0, "below": 1})
    rope: RopeConfig = field(default_factory=RopeConfig)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.dim % self.num_heads:
            yield "dim", f"must be a multiple of num_heads {self.num_heads}, got {self.dim}"
        elif self.position == "rotary" and (self.dim // self.num_heads) % 2:
            yield (
                "dim",
                f"/ num_heads must be even to form rotation pairs, got head_dim {self.dim // self.num_heads} "
                f"(dim {self.dim} / num_heads {self.num_heads})",
            )
        if self.num_heads % self.num_kv_heads:
            yield "num_kv_heads", f"must divide num_heads {self.num_heads}, got {self.num_kv_heads}"
        if self.position == "sinusoidal" and self.dim % 2:
            yield "dim", f"must be even for sinusoidal positions, got {self.dim}"
        if self.position != "rotary" and self.rope != RopeConfig():
            yield "rope", f"is set but position is {self.position!r}; only position=rotary reads it"
