"""The rotary part of a model's configuration; imports no TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

# Keys of an axial scaling that rows and columns have each, with an example.
PAIRS = {"factor": "[2.0,2.0]", "original_max_position_embeddings": "[8,8]"}


@dataclass(frozen=True)
class RopeScalingConfig:
    """A scaling by name, with the keys of Hugging Face's `rope_scaling`; see `rope.scaling`.

    Keys that the type does not read must be null. `original_max_position_embeddings` and `target_length` may
    be left to the model, which knows its context.
    """

    type: Literal["none", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "proportional"] = "none"
    factor: float | None = field(default=None, metadata={"min": 1})
    original_max_position_embeddings: int | None = field(default=None, metadata={"min": 1})
    max_position_embeddings: int | None = field(default=None, metadata={"min": 1})
    target_length: int | None = field(default=None, metadata={"min": 1})
    beta_fast: float | None = field(default=None, metadata={"above": 0})
    beta_slow: float | None = field(default=None, metadata={"above": 0})
    truncate: bool | None = None
    mscale: float | None = field(default=None, metadata={"above": 0})
    mscale_all_dim: float | None = field(default=None, metadata={"above": 0})
    attention_factor: float | None = field(default=None, metadata={"above": 0})
    low_freq_factor: float | None = field(default=None, metadata={"above": 0})
    high_freq_factor: float | None = field(default=None, metadata={"above": 0})
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    partial_rotary_factor: float | None = field(default=None, metadata={"above": 0, "max": 1})

    def given(self) -> dict[str, object]:
        """The keys that are not null, without the type."""
        keys = (key.name for key in fields(self) if key.name != "type")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}

    def as_dict(self, *, original_length: int | None = None) -> dict[str, object] | None:
        """The `scaling` of a `RotaryEmbedding`, whose `target_length` is apart; None without a scaling.

        Args:
            original_length: the original_max_position_embeddings of a type that reads it, if it is not given.
        """
        if self.type == "none":
            return None
        from rope.scaling import with_original_length

        scaling = {"rope_type": self.type, **self.given()}
        scaling.pop("target_length", None)
        return scaling if original_length is None else with_original_length(scaling, original_length)

    def reads(self, key: str) -> bool:
        """Whether the type reads a key, `target_length` included."""
        if self.type == "none":
            return False
        from rope.scaling import parameters

        return key in parameters(self.type)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        given = self.given()
        for key, value in given.items():
            if not self.reads(key):
                yield key, f"has no effect with scaling type {self.type!r}, got {value}"
        if self.type == "none":
            return
        from rope.scaling import keys_of

        required, _ = keys_of(self.type)
        for key in required:
            if key not in given and key != "original_max_position_embeddings":
                yield key, f"is missing: scaling type {self.type!r} needs it"
        yield from self._contradictions(given)

    def _contradictions(self, given: dict[str, object]) -> Iterator[tuple[str, str]]:
        for low, high, defaults in (
            ("beta_slow", "beta_fast", (1.0, 32.0)),
            ("low_freq_factor", "high_freq_factor", (None, None)),
        ):
            below, above = given.get(low, defaults[0]), given.get(high, defaults[1])
            if self.reads(low) and None not in (below, above) and not above > below:
                yield high, f"must be above {low} {below}, got {above}"
        if self.type == "yarn":
            if ("mscale" in given) != ("mscale_all_dim" in given):
                yield "mscale", "and mscale_all_dim go together: give both, or neither"
            elif "mscale" in given and "attention_factor" in given:
                yield "attention_factor", "replaces mscale and mscale_all_dim: give one or the others"
        if self.type == "longrope":
            sources = [k for k in ("attention_factor", "factor", "max_position_embeddings") if k in given]
            if len(sources) != 1:
                yield (
                    "attention_factor",
                    "or factor or max_position_embeddings: give exactly one of the three, "
                    f"got {', '.join(sources) or 'none'}",
                )
            if "short_factor" in given and "long_factor" in given:
                lengths = len(self.short_factor), len(self.long_factor)
                if lengths[0] != lengths[1]:
                    yield "long_factor", f"must be as long as short_factor, got {lengths[1]} and {lengths[0]}"


@dataclass(frozen=True)
class AxialScalingConfig(RopeScalingConfig):
    """A scaling of rows and of columns, which have a factor and an original length each."""

    factor: tuple[float, ...] | None = None
    original_max_position_embeddings: tuple[int, ...] | None = None

    def of_axis(self, axis: int) -> RopeScalingConfig:
        """The scaling of rows, 0, or of columns, 1."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        pairs = {key: values[key][axis] for key in PAIRS if values[key] is not None}
        return RopeScalingConfig(**values | pairs)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        for key, example in PAIRS.items():
            pair = getattr(self, key)
            if pair is not None and not (len(pair) == 2 and all(number >= 1 for number in pair)):
                yield (
                    key,
                    f"must be two numbers >= 1, of rows and of columns, such as {example}, got {list(pair)}",
                )
        yield from super().problems()


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of one axis, as `rope.RotaryEmbedding` takes it."""

    theta: float = field(default=10_000.0, metadata={"above": 1})
    layout: Literal["interleaved", "half"] = "interleaved"
    interpolate_factor: float = field(
        default=1.0, metadata={"min": 1, "hint": "To extend a context of 256 to 512, use 2.0."}
    )
    theta_rescale_factor: float = field(default=1.0, metadata={"min": 1})
    learned_freq: bool = False
    rotary_fraction: float = field(default=1.0, metadata={"above": 0, "max": 1})
    xpos: bool = False
    xpos_scale_base: float = field(default=512.0, metadata={"above": 0})
    scaling: RopeScalingConfig = field(default_factory=RopeScalingConfig)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.scaling.type != "none":
            for key in ("interpolate_factor", "theta_rescale_factor"):
                if getattr(self, key) != 1:
                    yield key, f"is a scaling of its own, got {getattr(self, key)} beside scaling.type"
        if self.scaling.type == "proportional" and self.rotary_fraction != 1:
            yield "rotary_fraction", "and scaling.type 'proportional' both leave features unrotated: use one"
        if not self.xpos and self.xpos_scale_base != 512:
            yield "xpos_scale_base", f"has no effect without xpos, got {self.xpos_scale_base}"


@dataclass(frozen=True)
class AxialRopeConfig:
    """Rotary embedding of the rows and the columns of a grid of patches.

    theta: rotation base of `lang`. For grids of 14 x 14 patches RoPE-ViT (arXiv 2403.13298) has 100, and 10
        for mixed frequencies; grids of a few patches learn better with 10.
    max_freq: of `pixel`.
    coordinates: `unit` from -1 to 1, or `patches` 0, 1, 2, ...; null is `unit` for `pixel`, else `patches`.
    interpolate_factor: for rows and for columns.
    """

    freqs_for: Literal["lang", "pixel"] = "lang"
    theta: float = field(default=10.0, metadata={"above": 1})
    max_freq: float = field(default=10.0, metadata={"min": 2})
    coordinates: Literal["unit", "patches"] | None = None
    interpolate_factor: tuple[float, ...] = (1.0, 1.0)
    layout: Literal["interleaved", "half"] = "interleaved"
    learned_freq: bool = False
    scaling: AxialScalingConfig = field(default_factory=AxialScalingConfig)

    @property
    def counts_patches(self) -> bool:
        """Whether the coordinates are patches."""
        if self.coordinates is None:
            return self.freqs_for == "lang"
        return self.coordinates == "patches"

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.freqs_for == "pixel" and self.theta != 10:
            yield "theta", f"has no effect with freqs_for 'pixel', got {self.theta}"
        if self.freqs_for == "lang" and self.max_freq != 10:
            yield "max_freq", f"has no effect with freqs_for 'lang', got {self.max_freq}"
        factors = self.interpolate_factor
        if len(factors) != 2 or not all(factor >= 1 for factor in factors):
            yield (
                "interpolate_factor",
                f"must be two numbers >= 1, for rows and for columns, got {list(factors)}. "
                "To go from 8x8 patches to 16x16, use [2.0,2.0].",
            )
        elif self.scaling.type != "none" and max(factors) != 1:
            yield "interpolate_factor", f"is a scaling of its own, got {list(factors)} beside scaling.type"
