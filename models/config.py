"""Model configurations; imports no TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
    learned_rotations: Literal["none", "per_token", "cumulative"] = "none"
    rope: RopeConfig = field(default_factory=RopeConfig)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def rotary_options(self) -> dict[str, object]:
        """The arguments of the model's `RotaryEmbedding`; lengths left open are those of the context.

        Raises:
            ValueError: if the rotated fraction of a head is not an even number of features.
        """
        from rope.frequencies import rotary_dim

        rope, scaling = self.rope, self.rope.scaling
        target_length = scaling.target_length
        if target_length is None and scaling.reads("target_length"):
            target_length = self.context_length
        options = {
            "dim": rotary_dim(self.head_dim, rope.rotary_fraction),
            "theta": rope.theta,
            "theta_rescale_factor": rope.theta_rescale_factor,
            "learned_freq": rope.learned_freq,
            "layout": rope.layout,
            "interpolate_factor": rope.interpolate_factor,
            "scaling": scaling.as_dict(
                original_length=scaling.factor and max(1, round(self.context_length / scaling.factor))
            ),
            "target_length": target_length,
        }
        if rope.xpos:
            options |= {
                "use_xpos": True,
                "xpos_scale_base": rope.xpos_scale_base,
                "xpos_max_length": self.context_length,
            }
        return options

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.position == "sinusoidal" and self.dim % 2:
            yield "dim", f"must be even for sinusoidal positions, got {self.dim}"
        if self.dim % self.num_heads:
            yield "dim", f"must be a multiple of num_heads {self.num_heads}, got {self.dim}"
        elif self.head_dim % 2 and (self.position == "rotary" or self.learned_rotations != "none"):
            yield (
                "dim",
                f"/ num_heads must be even to form rotation pairs, got head_dim {self.head_dim} "
                f"(dim {self.dim} / num_heads {self.num_heads})",
            )
        elif self.position == "rotary":
            yield from self._rotary_problems()
        if self.num_heads % self.num_kv_heads:
            yield "num_kv_heads", f"must divide num_heads {self.num_heads}, got {self.num_kv_heads}"
        if self.position != "rotary" and replace(self.rope, layout=self._unread_layout) != RopeConfig():
            yield "rope", f"is set but position is {self.position!r}; only position=rotary reads it"

    def _rotary_problems(self) -> Iterator[tuple[str, str]]:
        from rope.options import DEFAULTS, resolve

        if self.learned_rotations != "none" and self.rope.rotary_fraction != 1:
            yield "rope.rotary_fraction", "must be 1 with learned_rotations, which turn all of a head"
        if any(self.rope.problems()) or any(self.rope.scaling.problems()):
            return  # told with their own keys
        try:
            resolve(
                DEFAULTS
                | {"freqs_for": "lang", "custom_freqs": None, "use_xpos": False}
                | self.rotary_options()
            )
        except (ValueError, ArithmeticError) as error:
            yield "rope", f"cannot be used: {error}"

    @property
    def _unread_layout(self) -> str:
        """Learned rotations read the layout without rotary positions too."""
        return self.rope.layout if self.learned_rotations == "none" else RopeConfig.layout
