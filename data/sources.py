"""Sources of documents and images, and the cache of the files that are built from them.

A cache entry is a folder of binary files, `meta.json`, and `sha256.json` with the SHA-256 of both. The folder
is renamed into place when it is complete. Every load compares the hashes, and builds a missing or damaged
entry again.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout

from data.config import expand_home
from system.errors import DataError, reason
from system.files import delete, replacing, sha256_of
from system.text import format_count, format_duration, printable

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")
Report = Callable[[str], None]

# Part of the key of a cache entry: increase it when the content of the files changes.
FORMAT_VERSION = 8
REPORT_EVERY_SECONDS = 10
MAX_SKIPPED_NAMED = 20
MOVED_HINT = ". If the data of a run have moved, repeat its training command with data.path=NEW"


@dataclass(frozen=True)
class Source:
    """Documents or images of one dataset.

    `items` yields those of a split, in the same order at every call: (name, raw bytes) of a document, or
    (name, image, label) with an image (height, width, channels) uint8, and with the SHA-256 of its file if
    duplicates are left out. A `DataError` in place of bytes or image makes the item invalid.
    """

    name: str
    identity: dict  # JSON values that change whenever an item may have changed
    num_items: int | None  # of all splits, invalid ones included; None if it is not known in advance
    unit: str
    items: Callable[[Split], Iterator[tuple]] = lambda split: iter(())
    held_out: float | None = None  # share of the training items; None if the source defines both splits
    classes: tuple[str, ...] = ()
    invalid: Literal["skip", "error"] = "skip"
    action: tuple[str, str] = ("reading", "read")  # what is done with the items, and has been done

    def describe_size(self) -> str:
        """Number of items with their unit."""
        return f"the {self.unit}s" if self.num_items is None else format_count(self.num_items, self.unit)


@dataclass
class Progress:
    """Counts items, reports the remaining time, and collects `name: reason` of each invalid one."""

    source: Source
    report: Report
    num_done: int = 0
    skipped: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)
    reported_at: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1) -> None:
        """Counts more items as done."""
        now, source = time.monotonic(), self.source
        self.num_done += count
        if now - self.reported_at >= REPORT_EVERY_SECONDS:
            self.reported_at = now
            rate = self.num_done / max(now - self.started_at, 1e-6)
            line = f"{source.action[1]} {self.num_done:,} of {source.describe_size()}, {rate:,.0f}/s"
            if source.num_items is not None:
                line += f", {format_duration((source.num_items - self.num_done) / rate)} left"
            self.report(line)

    def skip(self, name: str, error: DataError) -> None:
        """Records an invalid item; raises DataError unless the source skips them."""
        if self.source.invalid == "error":
            raise DataError(f"{name}: {error}; fix or remove it, or set data.invalid=skip")
        self.skipped.append(f"{name}: {error}")

    def describe_skipped(self) -> str:
        """` (2 skipped, first: name: reason)`, or an empty string."""
        return f" ({len(self.skipped):,} skipped, first: {self.skipped[0]})" if self.skipped else ""


class MappedFile(np.memmap):
    """Memory-mapped file of the cache; indexing raises DataError if the file has been cut since.

    Reading beyond the end of the file would kill the process with SIGBUS.
    """

    def __getitem__(self, index):
        if self._mmap and self._mmap.size() < len(self._mmap):  # None in a copy of a part
            raise DataError(f"{self.filename} was cut during this run; repeat the command to rebuild it")
        return super().__getitem__(index)


def cache_folder(cache_dir: str | None, source: str, identity: dict) -> Path:
    """Folder of one dataset in `cache_dir`, named after a hash of `identity`.

    The default `cache_dir` is `rope-transformers-tf` in `$XDG_CACHE_HOME`, or in `~/.cache`.
    """
    canonical = json.dumps([FORMAT_VERSION, source, identity], sort_keys=True)
    if cache_dir is None:
        cache_dir = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rope-transformers-tf")
    key = hashlib.sha256(canonical.encode()).hexdigest()[:24]
    return Path(expand_home(cache_dir)).absolute() / f"{source}-{key}"


def load_or_build(folder: Path, source: Source, build: Callable, *, report: Report) -> dict:
    """Returns `meta.json` of the entry `folder`, which is built first unless it is complete and undamaged.

    `build(folder, progress)` writes files and returns JSON values for `meta.json`; `report` also receives the
    skipped items.
    """
    try:
        remove_partial(folder.parent)
        meta = read_meta(folder) or _build(folder, source, build, report)
    except OSError as error:
        raise DataError(
            f"cannot write the cache in {folder.parent}: {reason(error)}; "
            "set data.cache_dir=... to a folder on a writable disk with free space"
        ) from error
    skipped = meta["skipped"]
    for message in skipped[:MAX_SKIPPED_NAMED]:
        report(f"skipped {message}")
    if len(skipped) > MAX_SKIPPED_NAMED:
        report(f"skipped {format_count(len(skipped) - MAX_SKIPPED_NAMED, f'more {source.unit}')}")
    return meta


def _build(folder: Path, source: Source, build: Callable, report: Report) -> dict:
    """Builds an entry, or waits until another process has, and returns its `meta.json`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for another process, which is {source.action[0]} {source.name}")
        held = lock.acquire()
    with held:
        if (meta := read_meta(folder)) is None:
            report(f"{source.action[0]} {source.describe_size()} of {source.name}")
            progress = Progress(source, report)
            with replacing(folder, remove=delete) as temporary:
                temporary.mkdir()
                facts = build(temporary, progress) | {"skipped": progress.skipped}
                (temporary / "meta.json").write_text(json.dumps(facts), "utf-8")
                (temporary / "sha256.json").write_text(json.dumps(hash_files(temporary)), "utf-8")
            meta = read_meta(folder)
    return meta


def remove_partial(cache_dir: Path) -> None:
    """Removes entries that a process left when it was killed: their locks are free."""
    for path in cache_dir.glob(".*.partial"):
        with contextlib.suppress(OSError, Timeout), FileLock(path.with_suffix(".lock"), timeout=0):
            delete(path)


def read_meta(folder: Path) -> dict | None:
    """`meta.json` of a cache entry; None if the entry is incomplete or any hash differs."""
    try:
        is_intact = json.loads((folder / "sha256.json").read_text("utf-8")) == hash_files(folder)
        return json.loads((folder / "meta.json").read_text("utf-8")) if is_intact else None
    except (OSError, ValueError):
        return None


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in `folder` except `sha256.json`, by name."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != "sha256.json"}


def hash_fraction(name: str) -> float:
    """Hash of `name` as a number in [0, 1), equal on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def read_file(path: Path) -> bytes:
    """Content of a regular file; raises DataError if it cannot be read."""
    try:
        check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {printable(str(path))}: {reason(error)}") from error


def check_regular(path: Path) -> None:
    """Raises OSError for a FIFO, which blocks, or a device, which may never end; a directory fails later."""
    if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError("not a regular file")


def file_state(name: str, path: Path) -> tuple:
    """Name, size, time and access of a file: JSON values that change when its content changes."""
    try:
        status = path.stat()
    except OSError:
        return (name,)
    return name, status.st_size, status.st_mtime_ns, os.access(path, os.R_OK)
