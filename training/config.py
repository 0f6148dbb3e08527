"""Configuration of the loop and the optimizer; imports no TensorFlow."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon with linear warm-up and cosine decay; see `training.optimizer`."""

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = field(default=3e-3, metadata={"above": 0})
    final_learning_rate_ratio: float = field(default=0.1, metadata={"min": 0, "max": 1})
    warmup_steps: int = field(default=100, metadata={"min": 0})
    weight_decay: float = field(default=0.1, metadata={"min": 0})
    beta_1: float = field(default=0.9, metadata={"min": 0, "below": 1})
    beta_2: float = field(default=0.99, metadata={"min": 0, "below": 1})
    epsilon: float = field(default=1e-8, metadata={"above": 0})
    clip_norm: float = field(default=1.0, metadata={"above": 0})


@dataclass(frozen=True)
class DistributeConfig:
    """On which devices a run is, see `training.distribution`."""

    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    devices: tuple[str, ...] | None = field(default=None, metadata={"hint": "For example [CPU:0,CPU:1]"})

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.devices is None:
            return
        given = ", ".join(self.devices)
        if self.strategy != "mirrored":
            yield "devices", f"has no effect with distribute={self.strategy}, got {given}: use mirrored"
        is_of_one_kind = any(
            all(re.fullmatch(rf"{kind}:\d+", d) for d in self.devices) for kind in ("CPU", "GPU")
        )
        if not is_of_one_kind or len(set(self.devices)) < len(self.devices):
            yield "devices", f"must be different devices of one kind, such as GPU:0, GPU:1; got {given}"


@dataclass(frozen=True)
class TrainingConfig:
    """One run of the loop. A step is one update of the weights, over `batch_size` windows or images."""

    num_steps: int = field(default=2000, metadata={"min": 1})
    batch_size: int = field(default=8, metadata={"min": 1})
    accumulation_steps: int = field(default=1, metadata={"min": 1})
    label_smoothing: float = field(default=0.0, metadata={"min": 0, "below": 1})
    seed: int = field(default=0, metadata={"min": 0, "max": 2**31 - 1})
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    compile: Literal["auto", "graph", "xla"] = "auto"
    deterministic: bool = False
    max_minutes: float | None = field(default=None, metadata={"above": 0})
    max_bad_steps: int = field(default=5, metadata={"min": 1})
    log_every: int = field(default=20, metadata={"min": 1})
    eval_every: int = field(default=250, metadata={"min": 1})
    eval_batches: int = field(default=16, metadata={"min": 1})
    sample_every: int | None = field(default=500, metadata={"min": 1})
    checkpoint_every: int = field(default=250, metadata={"min": 1})
    keep_checkpoints: int = field(default=2, metadata={"min": 1})
    keep_best: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.batch_size % self.accumulation_steps:
            yield (
                "accumulation_steps",
                f"must divide batch_size {self.batch_size}, got {self.accumulation_steps}",
            )
