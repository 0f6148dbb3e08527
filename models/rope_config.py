"""Rotary options of the models, validated by `rope.options`; imports no TensorFlow."""

from collections.abc import Callable, Iterator
from dataclasses import field, fields
from typing import Annotated, Literal

from pydantic import Field

from system.validation import Options

Layout = Literal["interleaved", "half"]
FACTORS = Field(examples=["[2.0,2.0]"])  # of rows and columns
LENGTHS = Field(examples=["[8,8]"])


class RopeScalingConfig(Options):
    """Scaling of the frequencies, with the keys of Hugging Face's `rope_scaling`; see `rope.scaling`.

    Keys that the type does not read must be null. The model supplies `original_max_position_embeddings` and
    `target_length` where they are null.
    """

    type: Literal["none", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "proportional"] = "none"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    max_position_embeddings: int | None = None
    target_length: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    truncate: bool | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    partial_rotary_factor: float | None = None

    def set_keys(self) -> dict[str, object]:
        """Keys that are not null, without the type."""
        values = {key.name: getattr(self, key.name) for key in fields(self) if key.name != "type"}
        return {key: value for key, value in values.items() if value is not None}

    def rotary_options(self, length: int) -> dict[str, object]:
        """`scaling` and `target_length` of a `RotaryEmbedding`; null ones follow from the `length`."""
        if self.type == "none":
            return {"scaling": None, "target_length": None}
        scaling = {"rope_type": self.type, **self.set_keys()}
        target_length = scaling.pop("target_length", length if self.reads("target_length") else None)
        if self.factor and self.reads("original_max_position_embeddings"):
            scaling.setdefault("original_max_position_embeddings", max(1, round(length / self.factor)))
        return {"scaling": scaling, "target_length": target_length}

    def reads(self, key: str) -> bool:
        """Whether the type reads a key, `target_length` included."""
        if self.type == "none":
            return False
        from rope.scaling import parameters  # NumPy, which `--help` does not need

        return key in parameters(self.type)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.type == "none":
            for key, value in self.set_keys().items():
                yield key, f"has no effect with scaling type 'none', got {value}"


class AxialScalingConfig(RopeScalingConfig):
    """A scaling of rows and columns, each with its own factor and original length."""

    factor: Annotated[tuple[float, float] | None, FACTORS] = None
    original_max_position_embeddings: Annotated[tuple[int, int] | None, LENGTHS] = None

    def for_axis(self, axis: int) -> RopeScalingConfig:
        """Scaling of rows (axis 0) or columns (axis 1)."""
        keys = self.set_keys()
        for key in {"factor", "original_max_position_embeddings"} & keys.keys():
            keys[key] = keys[key][axis]
        return RopeScalingConfig(type=self.type, **keys)


class RopeConfig(Options):
    """Rotary embedding of a sequence, with the names of `rope.RotaryEmbedding`."""

    theta: float = 10_000.0
    layout: Layout = "interleaved"
    interpolate_factor: float = 1.0
    theta_rescale_factor: float = 1.0
    learned_freq: bool = False
    rotary_fraction: float = 1.0
    xpos: bool = False
    xpos_scale_base: float = 512.0
    scaling: RopeScalingConfig = field(default_factory=RopeScalingConfig)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.scaling.type == "proportional" and self.rotary_fraction != 1:
            yield "rotary_fraction", "and scaling.type 'proportional' both leave features unrotated: use one"


class AxialRopeConfig(Options):
    """Rotary embedding of the rows and columns of a grid of patches.

    theta: rotation base of `lang`. For grids of 14 x 14 patches RoPE-ViT (arXiv 2403.13298) uses 100, and 10
        for mixed frequencies; small grids train better with 10.
    max_freq: maximum frequency of `pixel`.
    coordinates: `unit` from -1 to 1, or `patches` 0, 1, ...; null means `unit` for `pixel`, else `patches`.
    interpolate_factor: of rows and of columns.
    """

    freqs_for: Literal["lang", "pixel"] = "lang"
    theta: float = 10.0
    max_freq: float = 10.0
    coordinates: Literal["unit", "patches"] | None = None
    interpolate_factor: Annotated[tuple[float, float], FACTORS] = (1.0, 1.0)
    layout: Layout = "interleaved"
    learned_freq: bool = False
    scaling: AxialScalingConfig = field(default_factory=AxialScalingConfig)

    @property
    def counts_patches(self) -> bool:
        """Whether the coordinates count patches."""
        return self.coordinates == "patches" or (self.coordinates is None and self.freqs_for == "lang")

    def problems(self) -> Iterator[tuple[str, str]]:
        unread = "max_freq" if self.freqs_for == "lang" else "theta"
        if getattr(self, unread) != getattr(AxialRopeConfig, unread):
            yield unread, f"has no effect with freqs_for {self.freqs_for!r}, got {getattr(self, unread)}"


def rotary_problems(
    rope: RopeConfig | AxialRopeConfig, embeddings: Callable[[], list[dict[str, object]]]
) -> Iterator[tuple[str, str]]:
    """Key and message of the first rule of `rope.frequencies` that the arguments of an embedding violate."""
    from rope.frequencies import DEFAULTS, resolve  # NumPy, which `--help` does not need

    try:
        for arguments in embeddings():
            resolve(DEFAULTS | {"freqs_for": "lang", "custom_freqs": None, "use_xpos": False} | arguments)
    except (ValueError, ArithmeticError) as error:
        # The message begins with an option, or with `scaling` and a key.
        message = str(error).removeprefix("scaling ")
        options, prefix = (rope, "rope") if message == str(error) else (rope.scaling, "rope.scaling")
        key, _, rest = message.partition(" ")
        if key in options.__dataclass_fields__:
            yield f"{prefix}.{key}", rest
        elif message.startswith("the rotated"):
            yield "rope.rotary_fraction", f"cannot be used: {message}"
        else:
            yield prefix, message if options is rope.scaling else f"cannot be used: {message}"
