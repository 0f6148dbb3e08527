"""What the tasks on text have in common, whatever the text."""

from collections.abc import Iterable
from dataclasses import dataclass

from configs.schema import Config
from data.tokens import VOCAB_SIZE, decode


@dataclass(frozen=True)
class TokenTask:
    """Tokens under a config."""

    config: Config

    unit = "tokens"
    samples_at_end = True

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size * self.config.context_length

    def describe_model(self) -> list[str]:
        """Context, positions and what is special about them, in words."""
        model = self.config.model
        details = [f"context {model.context_length}", f"position {model.position}"]
        if model.position != "rotary":
            return details
        rope = model.rope
        details += [f"theta {rope.theta:g}", rope.layout, f"interpolate_factor {rope.interpolate_factor:g}"]
        if rope.scaling.type != "none":
            details.append(f"{rope.scaling.type} scaling {rope.scaling.given()}")
        details += ["xPos"] * rope.xpos + ["learned frequencies"] * rope.learned_freq
        if rope.rotary_fraction != 1:
            details.append(f"rotary_fraction {rope.rotary_fraction:g}")
        return details

    def describe_batch(self) -> str:
        """What a step is trained on, in words."""
        return f"{self.config.batch_size} x {self.config.context_length} tokens"


def samples_of(directory, row: dict) -> list:
    """The file of the samples, if the last row of the run has one."""
    return [directory.samples] if "sample" in row else []


def readable(tokens: Iterable[int]) -> str:
    """The text of those that are bytes, without what would move the cursor of a terminal.

    An untrained model writes any byte, and one of a larger vocabulary other tokens too.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in decode([int(token) for token in tokens if 0 <= token < VOCAB_SIZE])
    )
