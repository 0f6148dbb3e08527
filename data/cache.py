"""Prepared data on disk: written once and memory-mapped by every later run.

A cache entry is a folder of binary files and `meta.json`, which records their SHA-256 and its own. It appears
under its name in one rename, complete; each load compares the hashes, so that what a crash or a disk has
damaged is built again, as is what was deleted. A text is `train.bin` and `validation.bin` of raw uint8
tokens; for images see `data.image_store`.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.tokens import SEPARATOR
from system.errors import DataError

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
    """`meta.json` of a cache entry; None if it or a file is missing or not as it was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        is_whole = meta.pop("sha256") == _sha256_of_facts(meta) and meta["files"] == _sha256_of_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return meta if is_whole else None


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
    """Writes `meta.json`: the SHA-256 of all files in `folder`, which are closed by now, and `facts`."""
    meta = {"files": _sha256_of_files(folder), **facts}
    meta["sha256"] = _sha256_of_facts(meta)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), "utf-8")


def _sha256_of_files(folder: Path) -> dict[str, str]:
    """By name, of all but `meta.json`."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != "meta.json":
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _sha256_of_facts(meta: dict) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _publish(new: Path, folder: Path, *, aside: Path) -> None:
    """Renames `new` to `folder`; a complete entry of that name stays, a damaged one goes to `aside`."""
    try:
        os.replace(new, folder)  # fails on a folder that is not empty
    except OSError:
        if read_meta(folder) is None:
            os.replace(folder, aside)
            os.replace(new, folder)
