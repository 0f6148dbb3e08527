"""Data configurations, one class a source; imports no TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

HELD_OUT = 0.05


@dataclass(frozen=True)
class PythonStdlibConfig:
    """The source text of the running Python's standard library, one document a file."""

    source: Literal["python_stdlib"] = "python_stdlib"
    held_out: float = field(default=HELD_OUT, metadata={"above": 0, "below": 1})
    reset_positions: bool = False
    cache_dir: str | None = None


@dataclass(frozen=True)
class TextFilesConfig:
    """The user's own UTF-8 text files, one document a file: `path` is a file, a directory or a glob."""

    path: str = field(metadata={"example": "'docs/**/*.md'"})
    source: Literal["text_files"] = "text_files"
    invalid: Literal["skip", "error"] = "skip"
    held_out: float = field(default=HELD_OUT, metadata={"above": 0, "below": 1})
    reset_positions: bool = False
    cache_dir: str | None = None


@dataclass(frozen=True)
class TfdsTextConfig:
    """A text set of TensorFlow Datasets, one document an example.

    `validation_split` null holds out `held_out` of the training split.
    """

    tfds_name: str = field(metadata={"example": "tiny_shakespeare"})
    source: Literal["tfds"] = "tfds"
    text_key: str = "text"
    train_split: str = "train"
    validation_split: str | None = None
    held_out: float = field(default=HELD_OUT, metadata={"above": 0, "below": 1})
    data_dir: str | None = None
    reset_positions: bool = False
    cache_dir: str | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.validation_split is not None and self.held_out != HELD_OUT:
            yield "held_out", f"is set, and so is validation_split {self.validation_split!r}: set one of them"


@dataclass(frozen=True)
class PasskeyConfig:
    """Generated texts that state a key of digits that differ and ask for it at their end."""

    source: Literal["passkey"] = "passkey"
    digits: int = field(default=5, metadata={"min": 1, "max": 10})
    # Of a row that is trained on, at most.
    texts: int = field(default=5, metadata={"min": 1})
    reset_positions: bool = True
    # Texts that are measured and never trained on, one a row.
    held_out_examples: int = field(default=500, metadata={"min": 1})


@dataclass(frozen=True)
class AugmentConfig:
    """Random moves of a training image, drawn anew in each epoch; 0 and false move nothing."""

    # Degrees to either side.
    rotation: float = field(default=0.0, metadata={"min": 0, "max": 180})
    # The factor lies between 1 - scale and 1 + scale.
    scale: float = field(default=0.0, metadata={"min": 0, "below": 1})
    # Degrees to either side.
    shear: float = field(default=0.0, metadata={"min": 0, "below": 90})
    # Fraction of each side of the image, in either direction.
    shift: float = field(default=0.0, metadata={"min": 0, "max": 1})
    # Left to right, half the time.
    flip: bool = False
    # What comes in over the edge: black, or the image mirrored.
    fill: Literal["zero", "reflect"] = "zero"

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        if self.fill != "zero" and not (self.rotation or self.scale or self.shear or self.shift):
            yield (
                "fill",
                f"{self.fill} has no effect: without rotation, scale, shear and shift nothing comes in over "
                "the edge; use zero",
            )


DIGITS_AUGMENT = AugmentConfig(rotation=10.0, scale=0.1, shear=10.0, shift=0.1)
PHOTOS_AUGMENT = AugmentConfig(scale=0.1, shift=0.1, flip=True, fill="reflect")


@dataclass(frozen=True)
class DigitsConfig:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels; no download."""

    source: Literal["digits"] = "digits"
    image_size: tuple[int, ...] | None = None
    augment: AugmentConfig = field(default_factory=lambda: DIGITS_AUGMENT)

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        yield from _image_size_problems(self.image_size)


@dataclass(frozen=True)
class TfdsImagesConfig:
    """An image classification set of TensorFlow Datasets.

    `image_size` (height, width) null keeps the images as they are; they must then be of one size.
    """

    tfds_name: str = field(metadata={"example": "fashion_mnist"})
    source: Literal["tfds_images"] = "tfds_images"
    image_key: str = "image"
    label_key: str = "label"
    train_split: str = "train"
    validation_split: str = "test"
    image_size: tuple[int, ...] | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data_dir: str | None = None
    cache_dir: str | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        yield from _image_size_problems(self.image_size)
        if self.validation_split == self.train_split:
            yield "validation_split", f"must differ from train_split, got {self.validation_split!r} for both"


@dataclass(frozen=True)
class ImageFolderConfig:
    """The user's own images: `path/CLASS/*`, or `path/train/CLASS/*` and `path/test/CLASS/*`.

    `held_out` divides the first form; with the second, which is divided already, it must be left out.
    """

    path: str = field(metadata={"example": "photos"})
    source: Literal["image_folder"] = "image_folder"
    image_size: tuple[int, ...] | None = (64, 64)
    invalid: Literal["skip", "error"] = "error"
    held_out: float = field(default=0.2, metadata={"above": 0, "below": 1})
    augment: AugmentConfig = field(default_factory=lambda: PHOTOS_AUGMENT)
    cache_dir: str | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, message) of each rule between fields that is broken."""
        yield from _image_size_problems(self.image_size)


def _image_size_problems(image_size: tuple[int, ...] | None) -> Iterator[tuple[str, str]]:
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        yield "image_size", f"must be [height,width], both >= 1, got {list(image_size)}"


IMAGE_CONFIGS = (DigitsConfig, TfdsImagesConfig, ImageFolderConfig)
