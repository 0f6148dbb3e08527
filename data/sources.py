"""Sources of documents and images: what they provide, and the text that is read from files."""

import glob
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.config import PythonStdlibConfig, TextFilesConfig
from data.split import Split
from system.errors import DataError, reason
from system.files import walk_files
from system.text import format_count, printable

Documents = Iterator[tuple[str, bytes]]
Invalid = Literal["skip", "error"]

STDLIB_EXCLUDED = (
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*"),
)


@dataclass(frozen=True)
class Source:
    """Documents of one corpus.

    Attributes:
        name: name of the source in messages.
        identity: JSON values that change whenever a document may have changed.
        num_items: number of documents, held-out ones included.
        unit: name of an item in the singular.
        documents: yields (relative name, raw bytes), in the same order at every call.
        validation_documents: the same for a held-out split that the source itself defines.
        invalid: whether a document that is not text is skipped or raises.
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
    """Images of one set.

    Attributes:
        name: name of the source in messages.
        identity: JSON values that change whenever an image may have changed.
        classes: names of the classes.
        counts: number of images by split, invalid ones included.
        examples: yields the examples of a split, in the same order at every call; its second argument is
            called with `name: reason` of each invalid image.
        every_class: whether each class must have an image in each split.
        invalid: whether an invalid image is skipped or raises.
    """

    name: str
    identity: dict
    classes: tuple[str, ...]
    counts: dict[Split, int]
    examples: Callable[[Split, Callable[[str], None]], Iterator[Example]]
    every_class: bool
    invalid: Invalid = "error"


def python_stdlib_source(config: PythonStdlibConfig) -> Source:
    """The `*.py` files of the running Python's standard library, without its tests and tools.

    Raises:
        DataError: if this Python has no source files on disk.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = walk_files(root, is_excluded=lambda name: any(fnmatch(name, each) for each in STDLIB_EXCLUDED))
    paths = [path for path in paths if path.suffix == ".py"]
    if not paths:
        raise DataError(
            f"this Python has no standard library source in {root}; use data=text_files data.path=... instead"
        )
    return _file_source(config.source, root, paths, invalid="skip")


def text_files_source(config: TextFilesConfig) -> Source:
    """The user's files in sorted order, without empty ones.

    `config.path` is a file, a directory (all files below it) or a glob (`**` is any depth, `~` is the home
    directory). Hidden files and folders are excluded unless the glob names their dot. The name of a document
    is its path relative to the directory, or to the part of the glob before the first wildcard.

    Raises:
        DataError: if the path does not exist, matches no file, or matches empty files only.
    """
    root, pattern = _root_and_pattern(config.path)
    if not root.exists():
        raise DataError(f"data.path={config.path}: {root.absolute()} does not exist; check the path")
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
    if not paths:
        raise DataError(
            f"data.path={config.path} matches no file in {root.absolute()}; "
            "for files at any depth use a glob such as 'texts/**/*.txt'"
        )
    non_empty = [path for path in paths if path.stat().st_size]
    if not non_empty:
        raise DataError(
            f"data.path={config.path} matches {format_count(len(paths), 'file')}, all empty; "
            "choose files with text"
        )
    return _file_source(f"{config.source} {config.path}", root, non_empty, invalid=config.invalid)


def read_file(path: Path) -> bytes:
    """Content of a file.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {printable(str(path))}: {reason(error)}") from error


def _root_and_pattern(path: str) -> tuple[Path, str]:
    """Directory that names are relative to, and the glob that finds the files."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return Path(path), os.path.join(glob.escape(path), "**", "*")
    if os.path.exists(path) or not glob.has_magic(path):
        return (Path(path).parent if os.path.exists(path) else Path(path)), glob.escape(path)
    root = Path(path)
    while glob.has_magic(str(root)):
        root = root.parent
    return root, path


def _file_source(name: str, root: Path, paths: list[Path], *, invalid: Invalid) -> Source:
    names = [printable(path.relative_to(root).as_posix()) for path in paths]
    stats = [path.stat() for path in paths]
    identity = {
        "root": printable(str(root.absolute())),
        "files": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)],
        "invalid": invalid,
    }

    def documents() -> Documents:
        for name, path in zip(names, paths, strict=True):
            yield name, read_file(path)

    return Source(printable(name), identity, len(paths), "file", documents, invalid=invalid)
