"""Data configurations, one class a source; imports no TensorFlow."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class PythonStdlibConfig:
    """The source text of the running Python's standard library, one document a file."""

    source: Literal["python_stdlib"] = "python_stdlib"
    held_out: float = field(default=0.05, metadata={"above": 0, "below": 1})
    cache_dir: str | None = None


@dataclass(frozen=True)
class TextFilesConfig:
    """The user's own UTF-8 text files, one document a file: `path` is a file, a directory or a glob."""

    path: str = field(metadata={"example": "'docs/**/*.md'"})
    source: Literal["text_files"] = "text_files"
    invalid: Literal["skip", "error"] = "skip"
    held_out: float = field(default=0.05, metadata={"above": 0, "below": 1})
    cache_dir: str | None = None


@dataclass(frozen=True)
class TfdsTextConfig:
    """A text set of TensorFlow Datasets, one document an example.

    `validation_split` null holds out `held_out` of the training split; otherwise `held_out` is not read.
    """

    tfds_name: str = field(metadata={"example": "tiny_shakespeare"})
    source: Literal["tfds"] = "tfds"
    text_key: str = "text"
    train_split: str = "train"
    validation_split: str | None = None
    held_out: float = field(default=0.05, metadata={"above": 0, "below": 1})
    data_dir: str | None = None
    cache_dir: str | None = None
