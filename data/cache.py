"""Prepared data on disk: written once and memory-mapped by every later run.

A cache entry is a folder of binary files and `meta.json`, which records their sizes. It appears under its
name in one rename, complete. It can be deleted at any time; it is built again when needed. A text is
`train.bin` and `validation.bin` of raw uint8 tokens; for images see `data.image_store`.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.tokens import SEPARATOR

# Part of the key: a change of what the files hold needs another number.
FORMAT_VERSION = 3
SPLITS = ("train", "validation")


def cache_folder(cache_dir: str | None, source: str, identity: dict) -> Path:
    """The folder of one data set in `cache_dir`, named after everything in `identity`.

    Without `cache_dir`: `rope-transformers-tf` in `$XDG_CACHE_HOME`, or in `~/.cache`.
    """
    canonical = json.dumps([FORMAT_VERSION, source, identity], sort_keys=True)
    key = f"{source}-{hashlib.sha256(canonical.encode()).hexdigest()[:24]}"
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute() / key
    parent = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser() / "rope-transformers-tf" / key


def read_meta(folder: Path) -> dict | None:
    """`meta.json` of a complete cache entry; None if it is missing or a file has another size."""
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        complete = all((folder / name).stat().st_size == size for name, size in meta["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if complete else None


def map_tokens(folder: Path, split: str) -> np.ndarray:
    """(length,) uint8 tokens of one split, read from disk as they are used."""
    return np.memmap(folder / f"{split}.bin", dtype=np.uint8, mode="r")


def build_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Lets `build` fill a temporary folder and gives it the name `folder` when it is complete.

    A crash leaves no folder of that name, and a second writer at the same time does no harm: the first
    complete one stays, a damaged one is replaced.

    Raises:
        DataError: if the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            build(new)
            _publish(new, folder, aside=Path(temporary, "damaged"))
    except OSError as error:
        raise DataError(
            f"cannot write the cache in {folder.parent}: {error.strerror}; "
            "name a folder that can be written with data.cache_dir=..."
        ) from error


@contextlib.contextmanager
def split_writers(folder: Path) -> Iterator[dict[str, "TokenWriter"]]:
    """A writer for each split, closed at the end."""
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(open(folder / f"{split}.bin", "wb")) for split in SPLITS}
        yield {split: TokenWriter(file) for split, file in files.items()}


class TokenWriter:
    """Writes documents with a separator before, between and after them, and keeps count."""

    def __init__(self, file):
        self.num_documents = 0
        self._num_tokens = 0
        self._hash = hashlib.sha256()
        self._file = file
        self._write(bytes([SEPARATOR]))

    def add(self, content: bytes) -> None:
        """Appends one document."""
        self._write(content)
        self._write(bytes([SEPARATOR]))
        self.num_documents += 1

    def meta(self) -> dict:
        """What `meta.json` records of this split."""
        return {"tokens": self._num_tokens, "documents": self.num_documents, "sha256": self._hash.hexdigest()}

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self._num_tokens += len(content)


def fingerprint_of(splits: dict[str, dict]) -> str:
    """SHA-256 over the tokens of all splits, of which `TokenWriter.meta` gives the parts."""
    hashes = " ".join(splits[split]["sha256"] for split in SPLITS)
    return hashlib.sha256(hashes.encode()).hexdigest()


def write_meta(folder: Path, facts: dict) -> None:
    """Writes `meta.json`: the sizes of all files in `folder`, which are closed by now, and `facts`."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / "meta.json").write_text(json.dumps({"files": files, **facts}, indent=1), "utf-8")


def _publish(new: Path, folder: Path, *, aside: Path) -> None:
    """Renames `new` to `folder`; a complete entry of that name stays, a damaged one goes to `aside`."""
    try:
        os.replace(new, folder)  # fails on a folder that is not empty
    except OSError:
        if read_meta(folder) is None:
            os.replace(folder, aside)
            os.replace(new, folder)
