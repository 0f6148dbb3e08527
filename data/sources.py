"""Sources of documents and images, and the sources that read text files."""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.config import PythonStdlibConfig, TextFilesConfig
from system.errors import DataError, reason
from system.files import walk_files
from system.text import printable

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Document = tuple[str, bytes]
Documents = Iterator[Document]
Invalid = Literal["skip", "error"]  # whether an item that cannot be decoded is skipped or raises

STDLIB_EXCLUDED = (
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*"),
)


@dataclass(frozen=True)
class Source:
    """Documents of one corpus.

    Attributes:
        identity: JSON values that change whenever a document may have changed.
        num_items: number of documents, held-out ones included; `unit` is their name in the singular.
        documents: yields (relative name, raw bytes), in the same order at every call.
        validation_documents: the same for a held-out split that the source itself defines.
    """

    name: str
    identity: dict
    num_items: int
    unit: str
    documents: Callable[[], Documents]
    validation_documents: Callable[[], Documents] | None = None
    invalid: Invalid = "skip"


class Example(NamedTuple):
    """One image, (height, width, channels) uint8, its class, and its name if it has one."""

    name: str | None
    image: np.ndarray
    label: int


@dataclass(frozen=True)
class ImageSource:
    """Images of one dataset.

    Attributes:
        identity: JSON values that change whenever an image may have changed.
        num_items: number of images, invalid ones included; `unit` is their name in the singular.
        examples: yields the examples of a split, in the same order at every call; its second argument is
            called with `name: reason` of each invalid image.
        every_class: whether each class must have an image in each split.
    """

    name: str
    identity: dict
    num_items: int
    classes: tuple[str, ...]
    examples: Callable[[Split, Callable[[str], None]], Iterator[Example]]
    every_class: bool
    invalid: Invalid = "error"
    unit: str = "image"


def hash_fraction(name: str) -> float:
    """Hash of `name` as a number in [0, 1), equal on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def python_stdlib_source(config: PythonStdlibConfig) -> Source:
    """The `*.py` files of the running Python's standard library, without its tests and tools."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = walk_files(root, is_excluded=lambda name: any(fnmatch(name, each) for each in STDLIB_EXCLUDED))
    paths = [path for path in paths if path.suffix == ".py"]
    return _file_source(config.source, root, paths, invalid="skip")


def text_files_source(config: TextFilesConfig) -> Source:
    """The user's files in sorted order, without empty ones.

    `config.path` is a file, a directory (all files below it) or a glob (`**` is any depth, `~` is the home
    directory). Hidden files and folders are excluded unless the glob names their dot. The name of a document
    is its path relative to the directory, or to the part of the glob before the first wildcard.

    Raises:
        DataError: if the path does not exist or matches no file with text.
    """
    root, pattern = _root_and_pattern(os.path.expanduser(config.path))
    if not root.exists():
        raise DataError(f"data.path={config.path}: {root.absolute()} does not exist; check the path")
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)))
    paths = [path for path in matches if path.is_file() and path.stat().st_size]
    if not paths:
        raise DataError(
            f"data.path={config.path} matches no file with text in {root.absolute()}; "
            "for files at any depth use a glob such as 'texts/**/*.txt'"
        )
    return _file_source(f"{config.source} {config.path}", root, paths, invalid=config.invalid)


def read_file(path: Path) -> bytes:
    """Content of a file; raises DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {printable(str(path))}: {reason(error)}") from error


def file_state(name: str, path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: JSON values that change when its content changes."""
    stat = path.stat()
    return name, stat.st_size, stat.st_mtime_ns


def _root_and_pattern(path: str) -> tuple[Path, str]:
    """Directory that names are relative to, and the glob that finds the files."""
    if os.path.isdir(path):
        return Path(path), os.path.join(glob.escape(path), "**", "*")
    if os.path.exists(path):
        return Path(path).parent, glob.escape(path)
    root = Path(path)
    while glob.has_magic(str(root)):
        root = root.parent
    return root, path


def _file_source(name: str, root: Path, paths: list[Path], *, invalid: Invalid) -> Source:
    files = [(printable(path.relative_to(root).as_posix()), path) for path in paths]
    identity = {
        "root": printable(str(root.absolute())),
        "files": [file_state(name, path) for name, path in files],
        "invalid": invalid,
    }

    def documents() -> Documents:
        for name, path in files:
            yield name, read_file(path)

    return Source(printable(name), identity, len(paths), "file", documents, invalid=invalid)
