"""Options of the loop, the optimizer and the devices; imports no TensorFlow."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from system.validation import Options, PositiveInt

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=1e-38)]  # a smaller one is zero in float32
Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Options):
    """Muon or AdamW with linear warm-up and cosine decay; see `training.optimizer`."""

    name: Literal["adamw", "muon"] = "muon"
    learning_rate: Positive = 3e-3
    adamw_learning_rate_ratio: Positive = 8.0  # of muon: rate of the weights that AdamW updates
    final_learning_rate_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0, le=2**31 - 1)] = 100
    weight_decay: NonNegative = 0.1
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.99
    epsilon: Positive = 1e-8
    clip_norm: Positive = 1.0


class DistributeConfig(Options):
    """Devices of a run; see `training.multi_device`."""

    strategy: Literal["none", "mirrored", "multi_worker"] = "none"
    devices: Annotated[tuple[str, ...] | None, Field(examples=["[CPU:0,CPU:1]"])] = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.devices is None:
            return
        names = ", ".join(self.devices)
        if self.strategy != "mirrored":
            yield "devices", f"has no effect with distribute={self.strategy}, got {names}: use mirrored"
        is_of_one_kind = any(
            all(re.fullmatch(rf"{kind}:\d+", name) for name in self.devices) for kind in ("CPU", "GPU")
        )
        if not is_of_one_kind or len(set(self.devices)) < len(self.devices):
            yield "devices", f"must be different devices of one kind, such as GPU:0, GPU:1; got {names}"


class TrainingConfig(Options):
    """Options of the training loop; a step is one update, over `batch_size` windows or images."""

    num_steps: PositiveInt = 600
    batch_size: PositiveInt = 8
    accumulation_steps: PositiveInt = 1
    label_smoothing: Fraction = 0.0
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    precision: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    compile: Literal["auto", "graph", "xla"] = "auto"
    deterministic: bool = False
    max_minutes: Positive | None = None
    max_bad_steps: PositiveInt = 5
    log_every: PositiveInt = 20
    eval_every: PositiveInt = 200
    eval_batches: PositiveInt = 16
    sample_every: PositiveInt | None = 200
    checkpoint_every: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2
    keep_best: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.batch_size % self.accumulation_steps:
            rule = f"must divide batch_size {self.batch_size}"
            yield "accumulation_steps", f"{rule}, got {self.accumulation_steps}"
