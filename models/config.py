"""Model configurations; imports no TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from rope.config import AxialRopeConfig, RopeConfig

# Fields of AxialRopeConfig that each position reads; the other positions read none.
READ_OF_ROPE = {
    "axial": tuple(key.name for key in fields(AxialRopeConfig)),
    "mixed": ("theta", "interpolate_factor", "layout"),
}


@dataclass(frozen=True)
class TransformerLMConfig:
    """Decoder-only language model: see `models.transformer.TransformerLM`."""

    architecture: Literal["transformer_lm"] = "transformer_lm"
    vocab_size: int = field(default=256, metadata={"min": 1})
    context_length: int = field(default=256, metadata={"min": 1})
    dim: int = field(default=128, metadata={"min": 1})
    num_layers: int = field(default=4, metadata={"min": 1})
    num_heads: int = field(default=4, metadata={"min": 1})
    num_kv_heads: int = field(default=4, metadata={"min": 1})
    mlp_dim: int = field(default=384, metadata={"min": 1})
    # Standard deviation of the weights of a block that read from the residual stream.
    initial_stddev: float = field(default=0.02, metadata={"above": 0})
    position: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "rotary"
    qk_norm: bool = False
    dropout: float = field(default=0.0, metadata={"min": 0, "below": 1})
    learned_rotations: Literal["none", "per_token", "cumulative"] = "none"
    attention_kernel: Literal["full", "chunked", "auto"] = "auto"
    recompute_blocks: bool = False
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


@dataclass(frozen=True)
class AxialViTConfig:
    """Vision transformer: see `models.vit.AxialViT`. What is null is that of the data, see `for_images`."""

    architecture: Literal["axial_vit"] = "axial_vit"
    image_size: tuple[int, ...] | None = None
    channels: int | None = field(default=None, metadata={"min": 1})
    num_classes: int | None = None
    patch_size: int | None = field(default=None, metadata={"min": 1})
    dim: int = field(default=64, metadata={"min": 1})
    num_layers: int = field(default=4, metadata={"min": 1})
    num_heads: int = field(default=4, metadata={"min": 1})
    mlp_dim: int = field(default=192, metadata={"min": 1})
    position: Literal["axial", "mixed", "learned", "sinusoidal", "none"] = "axial"
    attention: Literal["full", "axial"] = "full"
    pooling: Literal["mean", "class_token"] = "mean"
    qk_norm: bool = False
    dropout: float = field(default=0.0, metadata={"min": 0, "below": 1})
    drop_path: float = field(default=0.0, metadata={"min": 0, "below": 1})
    learned_rotations: Literal["none", "per_token", "cumulative"] = "none"
    attention_kernel: Literal["full", "chunked", "auto"] = "auto"
    recompute_blocks: bool = False
    rope: AxialRopeConfig = field(default_factory=AxialRopeConfig)

    def for_images(self, height: int, width: int, channels: int, num_classes: int) -> "AxialViTConfig":
        """This configuration, with what it leaves open filled in from the data.

        Raises:
            ValueError: if a value that is set contradicts the data, or an image makes no grid of patches.
        """
        of_data = {"image_size": (height, width), "channels": channels, "num_classes": num_classes}
        for key, value in of_data.items():
            given = getattr(self, key)
            if given not in (None, value):
                raise ValueError(f"{key} is {given}, but the data has {value}. Leave it null, or change one.")
        patch_size = self.patch_size or smallest_patch(height, width)
        filled = replace(self, **of_data, patch_size=patch_size)
        if problems := [f"{key} {message}" for key, message in filled.problems()]:
            raise ValueError("; ".join(problems))
        return filled

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of patches of an image of `image_size`; None while that is open."""
        if self.image_size is None or self.patch_size is None:
            return None
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    def rotary_options(self) -> list[dict[str, object]]:
        """Arguments of the `RotaryEmbedding` of rows and of columns; open lengths are those of the grid."""
        # Until the data is known, a length that no scaling refuses.
        grid = self.grid or (64, 64)
        return [self._axis_options(axis, patches) for axis, patches in enumerate(grid)]

    def _axis_options(self, axis: int, patches: int) -> dict[str, object]:
        rope, scaling = self.rope, self.rope.scaling.of_axis(axis)
        options = {
            "dim": self.head_dim // 2,
            "freqs_for": rope.freqs_for,
            "learned_freq": rope.learned_freq,
            "layout": rope.layout,
            "interpolate_factor": rope.interpolate_factor[axis],
            "scaling": scaling.as_dict(
                original_length=scaling.factor and max(1, round(patches / scaling.factor))
            ),
            "target_length": scaling.target_length,
        }
        if scaling.target_length is None and scaling.reads("target_length"):
            options["target_length"] = patches
        if rope.freqs_for == "lang":
            return options | {"theta": rope.theta}
        return options | {"max_freq": rope.max_freq}

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        image_problems = list(self._image_problems())
        yield from image_problems
        if self.num_classes is not None and self.num_classes < 2:
            yield "num_classes", f"must be >= 2, got {self.num_classes}: there is nothing to tell apart"
        if self.pooling == "class_token" and self.attention == "axial":
            yield "pooling", "class_token needs attention=full: a class token is in no row and no column"
        if self.learned_rotations == "cumulative":
            yield "learned_rotations", "cumulative needs an order, which patches have not; use per_token"
        if self.position == "sinusoidal" and self.dim % 4:
            yield "dim", f"must be a multiple of 4 for sinusoidal rows and columns, got {self.dim}"
        multiple = 4 if self.position in READ_OF_ROPE else 2 if self.learned_rotations != "none" else 1
        if self.dim % self.num_heads:
            yield "dim", f"must be a multiple of num_heads {self.num_heads}, got {self.dim}"
        elif self.head_dim % multiple:
            yield (
                "dim",
                f"/ num_heads must be a multiple of {multiple} to form rotation pairs, got head_dim "
                f"{self.head_dim} (dim {self.dim} / num_heads {self.num_heads})",
            )
        elif not image_problems:
            yield from self._rope_problems()

    def _image_problems(self) -> Iterator[tuple[str, str]]:
        if self.image_size is None:
            return
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            yield "image_size", f"must be a height and a width in pixels, got {list(self.image_size)}"
        elif self.patch_size is not None and any(side % self.patch_size for side in self.image_size):
            height, width = self.image_size
            yield (
                "patch_size",
                f"must divide both sides of the images, got {self.patch_size} for {height}x{width}; "
                "model.patch_size=null chooses one for a new model",
            )

    def _rope_problems(self) -> Iterator[tuple[str, str]]:
        from rope.options import DEFAULTS, resolve

        read = READ_OF_ROPE.get(self.position, () if self.learned_rotations == "none" else ("layout",))
        for key in (key.name for key in fields(self.rope) if key.name not in read):
            if getattr(self.rope, key) != getattr(AxialRopeConfig(), key):
                yield f"rope.{key}", f"is set, but has no effect with position={self.position}"
        if self.position != "axial" or any(self.rope.problems()) or any(self.rope.scaling.problems()):
            return  # told with their own keys
        try:
            for options in self.rotary_options():
                resolve(DEFAULTS | {"custom_freqs": None, "use_xpos": False} | options)
        except (ValueError, ArithmeticError) as error:
            yield "rope", f"cannot be used: {error}"


def smallest_patch(height: int, width: int) -> int:
    """The smallest patch size from 2 up that divides both sides and makes 2 to 64 patches.

    Raises:
        ValueError: if there is none.
    """
    for size in range(2, min(height, width) + 1):
        if height % size == 0 and width % size == 0 and 2 <= height * width // size**2 <= 64:
            return size
    raise ValueError(
        f"patch_size must be set: no size from 2 up divides {height}x{width} into 2 to 64 patches. "
        "Set it, or resize the images."
    )
