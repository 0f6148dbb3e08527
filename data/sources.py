"""Where text comes from: named documents, as raw bytes, in a fixed order."""

import glob
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from data.config import PythonStdlibConfig, TextFilesConfig
from system.errors import DataError

Documents = Iterator[tuple[str, bytes]]
Invalid = Literal["skip", "error"]

STDLIB_EXCLUDED = (
    "tests",
    "test",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
    "lib-dynload",
    "config-*",
)


@dataclass(frozen=True)
class Source:
    """Documents of one corpus, readable again and again.

    Attributes:
        name: how messages call the source.
        identity: JSON values that change whenever a document may have changed.
        num_items: documents that `documents` and `validation_documents` offer together.
        unit: what an item is called, in the singular.
        documents: yields (relative name, raw bytes), always in the same order.
        validation_documents: the same for a held-out split that the source itself defines.
        invalid: whether a document that is not text is skipped or refused.
    """

    name: str
    identity: dict
    num_items: int
    unit: str
    documents: Callable[[], Documents]
    validation_documents: Callable[[], Documents] | None = None
    invalid: Invalid = "skip"


def python_stdlib_source(config: PythonStdlibConfig) -> Source:
    """The `*.py` files of the running Python's standard library, without its tests and tools.

    Raises:
        DataError: if this Python has no source files on disk.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(_python_files(root))
    if not paths:
        raise DataError(
            f"this Python has no standard library source in {root}; use data=text_files data.path=... instead"
        )
    return _file_source(config.source, root, paths, invalid="skip")


def text_files_source(config: TextFilesConfig) -> Source:
    """The user's files, sorted; empty files do not count.

    `config.path` is a file, a directory (all files below it) or a glob (`**` is any depth, `~` is the home
    directory). Hidden files and folders are left out unless the glob names their dot. A document's name is
    its path relative to the directory, or to the part of the glob before the first wildcard.

    Raises:
        DataError: if the path does not exist, matches no file, or matches empty files only.
    """
    root, pattern = _root_and_pattern(config.path)
    if not root.exists():
        raise DataError(f"data.path={config.path}: {root.absolute()} does not exist; name files that do")
    paths = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
    if not paths:
        raise DataError(
            f"data.path={config.path} matches no file in {root.absolute()}; "
            "for files at any depth write a glob such as 'texts/**/*.txt'"
        )
    filled = [path for path in paths if path.stat().st_size]
    if not filled:
        raise DataError(
            f"data.path={config.path} matches {len(paths):,} files, all empty; name files with text"
        )
    return _file_source(f"{config.source} {config.path}", root, filled, invalid=config.invalid)


def _python_files(root: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if not _is_excluded(name)]
        yield from (Path(directory, name) for name in names if name.endswith(".py"))


def _is_excluded(directory: str) -> bool:
    return any(fnmatch(directory, pattern) for pattern in STDLIB_EXCLUDED)


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


def _file_source(name: str, root: Path, paths: Iterable[Path], *, invalid: Invalid) -> Source:
    named = [(_relative_name(path, root), path) for path in paths]
    stats = [(name, path.stat()) for name, path in named]
    identity = {
        "root": printable(str(root.absolute())),
        "files": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "invalid": invalid,
    }
    return Source(printable(name), identity, len(named), "file", lambda: _read_files(named), invalid=invalid)


def _read_files(named: list[tuple[str, Path]]) -> Documents:
    for name, path in named:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {printable(str(path))}: {error.strerror}; "
                "change its permissions or leave it out of data.path"
            ) from error
        yield name, raw


def _relative_name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def printable(name: str) -> str:
    """`name` with the bytes of a file name that are not UTF-8 written as escapes."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")
