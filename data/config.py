"""Options of the data, one class for each source; imports no TensorFlow."""

import os
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from system.errors import CommandError
from system.validation import Options, PositiveInt

HELD_OUT = 0.05
BPE, BPE_VOCAB_SIZE = "bpe", 4_096
TOKENIZERS = ("bytes", BPE)  # any other value of `tokenizer` is a path
Share = Annotated[float, Field(gt=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=8_192)]  # pixels; every image is resized to this
ImageSize = Annotated[tuple[Side, Side] | None, Field(examples=["[64,96]"])]


def expand_home(path: str) -> str:
    """`path` with the home directory in place of `~`; CommandError if the user has none."""
    expanded = os.path.expanduser(path)
    if expanded.partition("/")[0] == "~":
        raise CommandError(f"{path}: there is no home directory; set HOME, or data.cache_dir and full paths")
    return expanded


Place = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]  # of a file or directory


class TextConfig(Options):
    """Options of every text."""

    tokenizer: Place | None = None  # None for that of the parent run, or bpe in a new run
    bpe_vocab_size: Annotated[int, Field(ge=257)] = BPE_VOCAB_SIZE  # at least 256 bytes and the separator
    held_out: Share = HELD_OUT
    reset_positions: bool = False
    cache_dir: Place | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.bpe_vocab_size != BPE_VOCAB_SIZE and self.tokenizer not in (None, BPE):
            yield "bpe_vocab_size", f"has no effect without tokenizer=bpe, got {self.bpe_vocab_size}"


class PythonStdlibConfig(TextConfig):
    """Source files of the running Python's standard library, one document for each file."""

    source: Literal["python_stdlib"] = "python_stdlib"


class TextFilesConfig(TextConfig):
    """UTF-8 text files of the user, one document for each: `path` is a file, a directory or a glob."""

    path: Annotated[Place, Field(examples=["'docs/**/*.md'"])] = field(kw_only=True)
    source: Literal["text_files"] = "text_files"
    invalid: Literal["skip", "error"] = "skip"


class JsonLinesConfig(TextFilesConfig):
    """Files with one JSON object on each line, also compressed as `.gz`; `text_key` is a document."""

    source: Literal["json_lines"] = "json_lines"
    text_key: str = "text"
    invalid: Literal["skip", "error"] = "error"


class ParquetConfig(JsonLinesConfig):
    """Parquet files; each value of the column `text_key` is a document."""

    source: Literal["parquet"] = "parquet"


class TfdsTextConfig(TextConfig):
    """Text dataset of TensorFlow Datasets, one document for each example."""

    tfds_name: Annotated[str, Field(examples=["tiny_shakespeare"])] = field(kw_only=True)
    source: Literal["tfds"] = "tfds"
    text_key: str = "text"
    train_split: str = "train"
    validation_split: str | None = None  # None holds out a share of train_split
    data_dir: Place | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.validation_split is not None and self.held_out != HELD_OUT:
            yield "held_out", f"is set, and so is validation_split {self.validation_split!r}: set one of them"


class PasskeyConfig(Options):
    """Generated texts that state a passkey of distinct digits and ask for it at the end."""

    source: Literal["passkey"] = "passkey"
    tokenizer: Place | None = None  # as in `TextConfig`, without `bpe`
    digits: Annotated[int, Field(ge=1, le=10)] = 5
    texts: PositiveInt = 5  # maximum in a training row
    reset_positions: bool = True
    held_out_examples: PositiveInt = 500  # texts for evaluation, one in each row

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.tokenizer == BPE:
            yield "tokenizer", "bpe is trained on the text of a run: set the directory of that run"


class AugmentConfig(Options):
    """Random transformations of a training image, drawn again in each epoch; 0 and false disable them."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # maximum in degrees, both directions
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0  # factors from 1 - scale to 1 + scale
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0  # maximum in degrees, both directions
    shift: Annotated[float, Field(ge=0, le=1)] = 0.0  # maximum as a fraction of each side
    flip: bool = False  # left to right, with probability 0.5
    fill: Literal["zero", "reflect"] = "zero"  # pixels beyond the edge: black, or the mirrored image

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.fill != "zero" and not (self.rotation or self.scale or self.shear or self.shift):
            yield ("fill", f"{self.fill} has no effect without rotation, scale, shear or shift; use zero")


DIGITS_AUGMENT = AugmentConfig(rotation=10.0, scale=0.1, shear=10.0, shift=0.1)
PHOTOS_AUGMENT = AugmentConfig(scale=0.1, shift=0.1, flip=True, fill="reflect")


class DigitsConfig(Options):
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels; no download."""

    source: Literal["digits"] = "digits"
    image_size: ImageSize = None
    augment: AugmentConfig = DIGITS_AUGMENT


class TfdsImagesConfig(Options):
    """Image classification dataset of TensorFlow Datasets."""

    tfds_name: Annotated[str, Field(examples=["fashion_mnist"])]
    source: Literal["tfds_images"] = "tfds_images"
    image_key: str = "image"
    label_key: str = "label"
    train_split: str = "train"
    validation_split: str = "test"
    image_size: ImageSize = None
    augment: AugmentConfig = AugmentConfig()
    data_dir: Place | None = None
    cache_dir: Place | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.validation_split == self.train_split:
            yield "validation_split", f"must differ from train_split, got {self.validation_split!r} for both"


class ImageFolderConfig(Options):
    """The user's own images: `path/CLASS/*`, or `path/train/CLASS/*` and `path/test/CLASS/*`."""

    path: Annotated[Place, Field(examples=["photos"])]
    source: Literal["image_folder"] = "image_folder"
    image_size: ImageSize = (64, 64)
    invalid: Literal["skip", "error"] = "error"
    held_out: Share = 0.2  # of the first form
    augment: AugmentConfig = PHOTOS_AUGMENT
    cache_dir: Place | None = None


FilesConfig = PythonStdlibConfig | TfdsTextConfig | TextFilesConfig | JsonLinesConfig | ParquetConfig
ImagesConfig = DigitsConfig | TfdsImagesConfig | ImageFolderConfig
DataConfig = FilesConfig | PasskeyConfig | ImagesConfig
