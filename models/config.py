"""Options of the models; imports no TensorFlow. The rotary options are validated by `rope.frequencies`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from system.validation import Options, PositiveInt

Rate = Annotated[float, Field(ge=0, lt=1)]
ImageSize = tuple[PositiveInt, PositiveInt]  # height, width in pixels
Width = Annotated[int, Field(ge=1, le=2**20)]  # features; those of a head are computed to check its options
Layout = Literal["interleaved", "half"]
FACTORS = Field(examples=["[2.0,2.0]"])  # of rows and columns


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
        return {key: value for key, value in vars(self).items() if key != "type" and value is not None}

    def rotary_options(self, length: int) -> dict[str, object]:
        """`scaling` and `target_length` of a `RotaryEmbedding`; null ones follow from the `length`."""
        if self.type == "none":
            return {"scaling": None, "target_length": None}
        scaling = {"rope_type": self.type, **self.set_keys()}
        target_length = scaling.pop("target_length", length if self.reads("target_length") else None)
        # Also without a factor, so that an error names only the factor; longrope cannot derive the length.
        if (self.factor or self.type != "longrope") and self.reads("original_max_position_embeddings"):
            original = max(1, round(length / (self.factor or 1)))
            scaling.setdefault("original_max_position_embeddings", original)
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
    original_max_position_embeddings: Annotated[tuple[int, int] | None, Field(examples=["[8,8]"])] = None

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
    rotary_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of a head; a scaling applies within it
    xpos: bool = False
    xpos_scale_base: float = 512.0
    scaling: RopeScalingConfig = RopeScalingConfig()

    @property
    def is_scaled(self) -> bool:
        """Whether any option extends the context."""
        return (self.interpolate_factor, self.theta_rescale_factor, self.scaling.type) != (1, 1, "none")

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.interpolate_factor != 1 and self.theta_rescale_factor != 1:
            factors = f"{self.theta_rescale_factor:g} and {self.interpolate_factor:g}"
            rule = "cannot be combined with interpolate_factor"
            yield "theta_rescale_factor", f"{rule}, got {factors}: set one of them to 1"


class AxialRopeConfig(Options):
    """Rotary embedding of the rows and columns of a grid of patches.

    For grids of 14 x 14 patches RoPE-ViT (arXiv 2403.13298) uses theta 100; small grids train better with 10.
    """

    freqs_for: Literal["lang", "pixel"] = "lang"
    theta: float = 10.0  # of `lang`
    max_freq: float = 10.0  # of `pixel`
    coordinates: Literal["unit", "patches"] | None = None  # null means `unit` for `pixel`, else `patches`
    interpolate_factor: Annotated[tuple[float, float], FACTORS] = (1.0, 1.0)
    layout: Layout = "interleaved"
    learned_freq: bool = False
    scaling: AxialScalingConfig = AxialScalingConfig()

    @property
    def counts_patches(self) -> bool:
        default = "patches" if self.freqs_for == "lang" else "unit"
        return (self.coordinates or default) == "patches"

    def problems(self) -> Iterator[tuple[str, str]]:
        unread = "max_freq" if self.freqs_for == "lang" else "theta"
        if getattr(self, unread) != getattr(AxialRopeConfig, unread):
            yield unread, f"has no effect with freqs_for {self.freqs_for!r}, got {getattr(self, unread)}"


class TransformerLMConfig(Options):
    """Decoder-only language model: see `models.transformer.TransformerLM`."""

    architecture: Literal["transformer_lm"] = "transformer_lm"
    vocab_size: PositiveInt | None = 256  # None until the tokenizer is known
    context_length: PositiveInt = 256
    dim: Width = 128
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    num_kv_heads: PositiveInt = 4
    head_dim: Width | None = None
    mlp_dim: PositiveInt = 384
    norm_epsilon: Annotated[float, Field(gt=0)] = 1e-5
    tied_embeddings: bool = True
    qkv_bias: bool = False
    initial_stddev: Annotated[float, Field(gt=0)] = 0.02  # of the weights that read the residual stream
    position: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "rotary"
    qk_norm: bool = True
    dropout: Rate = 0.0
    learned_rotations: Literal["none", "per_token", "cumulative"] = "none"
    attention_kernel: Literal["full", "chunked", "auto"] = "auto"
    recompute_blocks: bool = False
    rope: RopeConfig = RopeConfig()

    @property
    def head_size(self) -> int:
        return self.head_dim or self.dim // self.num_heads

    def rotary_options(self) -> dict[str, object]:
        from rope.frequencies import rotary_dim  # NumPy, which `--help` does not need

        rope = self.rope
        options = {
            "dim": rotary_dim(self.head_size, rope.rotary_fraction),
            "theta": rope.theta,
            "theta_rescale_factor": rope.theta_rescale_factor,
            "learned_freq": rope.learned_freq,
            "layout": rope.layout,
            "interpolate_factor": rope.interpolate_factor,
            "use_xpos": rope.xpos,
            "xpos_scale_base": rope.xpos_scale_base,
            **rope.scaling.rotary_options(self.context_length),
        }
        return options | ({"xpos_max_length": self.context_length} if rope.xpos else {})

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.position == "sinusoidal" and self.dim % 2:
            yield "dim", f"must be even for sinusoidal positions, got {self.dim}"
        yield from rope_problems(self)
        if self.position == "rotary" and self.learned_rotations != "none" and self.rope.rotary_fraction != 1:
            yield "rope.rotary_fraction", "must be 1 with learned_rotations, which rotate whole heads"
        if self.num_heads % self.num_kv_heads:
            yield "num_kv_heads", f"must divide num_heads {self.num_heads}, got {self.num_kv_heads}"


class AxialViTConfig(Options):
    """Vision transformer: see `models.vit.AxialViT`; `for_images` fills null values from the data."""

    architecture: Literal["axial_vit"] = "axial_vit"
    image_size: Annotated[ImageSize | None, Field(examples=["[64,96]"])] = None
    channels: PositiveInt | None = None
    num_classes: Annotated[int, Field(ge=2)] | None = None
    patch_size: PositiveInt | None = None
    dim: Width = 64
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    mlp_dim: PositiveInt = 192
    position: Literal["axial", "mixed", "learned", "sinusoidal", "none"] = "axial"
    attention: Literal["full", "axial"] = "full"
    pooling: Literal["mean", "class_token"] = "mean"
    qk_norm: bool = False
    dropout: Rate = 0.0
    drop_path: Rate = 0.0
    learned_rotations: Literal["none", "per_token"] = "none"  # a grid has no sequence to sum along
    attention_kernel: Literal["full", "chunked", "auto"] = "auto"
    recompute_blocks: bool = False
    rope: AxialRopeConfig = AxialRopeConfig()

    def for_images(self, height: int, width: int, channels: int, num_classes: int) -> "AxialViTConfig":
        """Copy with its null values filled from the data; ValueError if a value contradicts the data."""
        found = {"image_size": (height, width), "channels": channels, "num_classes": num_classes}
        for key, value in found.items():
            if (own := getattr(self, key)) not in (None, value):
                raise ValueError(f"{key} is {own}, but the data has {value}. Set it to null, or change one.")
        return replace(self, **found, patch_size=self.patch_size or smallest_patch(height, width))

    @property
    def head_size(self) -> int:
        return self.dim // self.num_heads

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches of an image of `image_size`; None while a size is null."""
        if self.image_size is None or self.patch_size is None:
            return None
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    def rotary_options(self) -> list[dict[str, object]]:
        rope = self.rope
        grid = self.grid or (64, 64)  # before the data is known, a length that every scaling accepts
        frequency = "theta" if rope.freqs_for == "lang" else "max_freq"
        return [
            {
                "dim": self.head_size // 2,
                "freqs_for": rope.freqs_for,
                "learned_freq": rope.learned_freq,
                "layout": rope.layout,
                "interpolate_factor": rope.interpolate_factor[axis],
                frequency: getattr(rope, frequency),
                **rope.scaling.for_axis(axis).rotary_options(patches),
            }
            for axis, patches in enumerate(grid)
        ]

    def problems(self) -> Iterator[tuple[str, str]]:
        size, patch = self.image_size, self.patch_size
        if None not in (size, patch) and any(side % patch for side in size):
            yield (
                "patch_size",
                f"must divide both sides of the images, got {patch} for {size[0]}x{size[1]}; "
                "model.patch_size=null chooses one for a new model",
            )
        if self.pooling == "class_token" and self.attention == "axial":
            yield "pooling", "class_token needs attention=full: a class token belongs to no row or column"
        if self.position == "sinusoidal" and self.dim % 4:
            yield "dim", f"must be a multiple of 4 for sinusoidal rows and columns, got {self.dim}"
        yield from rope_problems(self)


def count_weights(model: TransformerLMConfig | AxialViTConfig) -> int:
    """Number of weights in the first layer and the matrices of the blocks: almost all that a model has."""
    is_text = isinstance(model, TransformerLMConfig)
    inputs = model.vocab_size if is_text else model.patch_size**2 * model.channels
    kv_heads = model.num_kv_heads if is_text else model.num_heads
    block = 2 * (model.num_heads + kv_heads) * model.head_size + 3 * model.mlp_dim
    return model.dim * (inputs + model.num_layers * block)


def rope_problems(model: TransformerLMConfig | AxialViTConfig) -> Iterator[tuple[str, str]]:
    """Key and message if a head cannot be rotated, or if an option of `model.rope` is unread or invalid."""
    rope, position, learned = model.rope, model.position, model.learned_rotations != "none"
    head_dim = getattr(model, "head_dim", None)
    if head_dim is None and model.dim % model.num_heads:
        yield "dim", f"must be a multiple of num_heads {model.num_heads}, got {model.dim}"
        return
    multiple = {"rotary": 2, "axial": 4, "mixed": 4}.get(position, 2 if learned else 1)
    if model.head_size % multiple:
        rule = f"must give each head a multiple of {multiple} features, to form rotation pairs"
        key = "dim" if head_dim is None else "head_dim"
        yield key, f"{rule}; got {model.head_size} for {model.num_heads} heads"
        return
    if position in ("rotary", "axial"):
        read = vars(rope)
    elif position == "mixed":
        read = ("theta", "interpolate_factor", "layout")
    else:
        read = ("layout",) if learned else ()
    for key, value in vars(rope).items():
        if key not in read and value != getattr(type(rope)(), key):
            yield f"rope.{key}", f"is set, but has no effect with position={position}"
    if position not in ("rotary", "axial", "mixed"):
        return
    from rope.frequencies import DEFAULTS, resolve  # NumPy, which `--help` does not need

    try:
        options = model.rotary_options()
        for arguments in options if isinstance(options, list) else [options]:
            resolve(DEFAULTS | {"freqs_for": "lang", "custom_freqs": None, "use_xpos": False} | arguments)
    except (ValueError, ArithmeticError) as error:
        # The message begins with the keys of an option, such as `theta` or `scaling factor`.
        message = str(error).replace("xpos_max_length", "context_length")  # its value in a model
        key, options, words = "rope", rope, message.split(" ")
        while words[0] in getattr(options, "__dataclass_fields__", ()):
            key, options = f"{key}.{words[0]}", getattr(options, words.pop(0))
        yield key, " ".join(words if options is not rope else ["cannot be used:", *words])


def smallest_patch(height: int, width: int) -> int:
    """Smallest patch size from 2 up that divides both sides into 2 to 64 patches, or ValueError."""
    for size in range(2, min(height, width) + 1):
        if height % size == 0 and width % size == 0 and 2 <= height * width // size**2 <= 64:
            return size
    raise ValueError(f"patch_size must be set: no size from 2 up gives {height}x{width} 2 to 64 patches.")
