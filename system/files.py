"""Files that are complete or absent after a crash."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success the file there is synced and takes its place.

    Links at both paths are removed, and not followed. A directory takes the place of an empty or absent one.
    """
    temporary = path.with_name(f".{path.name}.partial")
    _remove(temporary)
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            sync(written)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 in place of the file at `path`, in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Waits until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk_files(root: Path, *, is_excluded: Callable[[str], bool]) -> list[Path]:
    """Files below `root`, sorted; names for which `is_excluded` is true are left out, directories as a whole.

    Raises:
        OSError: if a directory cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    paths = []
    for directory, subdirectories, names in os.walk(root, onerror=fail):
        subdirectories[:] = [name for name in subdirectories if not is_excluded(name)]
        paths += [Path(directory, name) for name in names if not is_excluded(name)]
    return sorted(paths)
