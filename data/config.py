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
