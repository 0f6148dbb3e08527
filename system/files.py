"""Files that are complete or absent after a crash."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from system.text import printable


@contextlib.contextmanager
def replacing(path: Path, *, remove: Callable[[Path], None] = lambda path: None) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success the file there is synced and takes its place.

    Links at both paths are removed, and not followed. A directory takes the place of an empty or absent one,
    or of what `remove` removes, which is called with `path` once the new one is on disk.
    """
    if not path.name:  # "", "." and "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.partial")
    delete(temporary)
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            sync(written)
        if os.path.lexists(path):
            remove(path)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        delete(temporary)


def delete(path: Path) -> None:
    """Deletes a file or a directory with its content, if it exists; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 in place of the file at `path`, in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json_lines(path: Path) -> list[dict]:
    """Rows of metrics.jsonl, without damaged lines such as one that a crash cut short."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def has_complete_summary(directory: Path) -> bool:
    """Whether the summary.json of a finished run can be read, and the files that it lists are there."""
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        return all((directory / name).exists() for name in summary.get("files", ()))
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk_files(root: Path, is_included: Callable[[list[str], bool], bool]) -> list[tuple[str, Path]]:
    """`printable` names of the files below `root`, relative to it, and their paths, sorted.

    Links to directories are followed, and each directory is listed once, by a path without links if it has
    one. A directory that cannot be listed is in the result itself: reading it as a file gives the reason.
    `is_included` takes the parts of a name, and whether it is that of a directory.
    """
    files, directories, links, visited = [], deque([("", root)]), deque(), set()
    while directories or links:
        prefix, directory = (directories or links).popleft()
        try:
            status = directory.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            files.append((prefix or ".", directory))
            continue
        for entry in entries:
            name = f"{prefix}/{printable(entry.name)}".lstrip("/")
            is_link = entry.is_symlink()
            is_directory = os.path.isdir(entry) if is_link else entry.is_dir()
            if is_included(name.split("/"), is_directory):
                found = files if not is_directory else links if is_link else directories
                found.append((name, Path(entry.path)))
    return sorted(files, key=lambda file: file[0].split("/"))
