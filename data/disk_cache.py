"""Prepared data on disk: written once and memory-mapped by every later run.

A cache entry is a folder of binary files and `meta.json`, which records their SHA-256 and its own. The folder
is renamed into place when it is complete. Every load compares the hashes, and builds a missing or damaged
entry again. `Progress` counts the items while an entry is built.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data.sources import ImageSource, Source
from system.errors import DataError, reason
from system.text import format_count, format_duration

# Part of the key: increase it when the content of the files changes.
FORMAT_VERSION = 4
REPORT_EVERY_SECONDS = 10
MAX_SKIPPED_NAMED = 20


def cache_folder(cache_dir: str | None, source: str, identity: dict) -> Path:
    """Folder of one dataset in `cache_dir`, named after a hash of `identity`.

    The default `cache_dir` is `rope-transformers-tf` in `$XDG_CACHE_HOME`, or in `~/.cache`.
    """
    canonical = json.dumps([FORMAT_VERSION, source, identity], sort_keys=True)
    if cache_dir is None:
        cache_dir = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "rope-transformers-tf")
    key = hashlib.sha256(canonical.encode()).hexdigest()[:24]
    return Path(cache_dir).expanduser().absolute() / f"{source}-{key}"


def load_or_build(folder: Path, build: Callable[[Path], dict]) -> dict:
    """Returns `meta.json` of the entry `folder`, which is built first unless it is complete and undamaged.

    Several processes may build the same entry: the first complete one is kept.

    Args:
        build: writes files into a folder; returns JSON values for `meta.json`.

    Raises:
        DataError: if the cache cannot be written.
    """
    meta = read_meta(folder)
    if meta is not None:
        return meta
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            write_meta(new, build(new))
            _publish(new, folder, damaged=Path(temporary, "damaged"))
    except OSError as error:
        raise DataError(
            f"cannot write the cache in {folder.parent}: {reason(error)}; "
            "set data.cache_dir=... to a folder on a writable disk with free space"
        ) from error
    return read_meta(folder)


def read_meta(folder: Path) -> dict | None:
    """`meta.json` of a cache entry; None if the entry is incomplete or any hash differs."""
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        is_intact = meta.pop("sha256") == _hash_facts(meta) and meta["files"] == hash_files(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if is_intact else None


def write_meta(folder: Path, facts: dict) -> None:
    """Writes `meta.json`: `facts`, the SHA-256 of all files in `folder`, and its own SHA-256."""
    meta = {"files": hash_files(folder), **facts}
    meta["sha256"] = _hash_facts(meta)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), "utf-8")


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in `folder` except `meta.json`, by name."""
    hashes = {}
    for path in sorted(folder.iterdir()):
        if path.name != "meta.json":
            with open(path, "rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _hash_facts(meta: dict) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _publish(new: Path, folder: Path, *, damaged: Path) -> None:
    """Renames `new` to `folder`; keeps a complete entry of that name, moves a damaged one to `damaged`."""
    try:
        os.replace(new, folder)  # fails if `folder` exists and is not empty
    except OSError:
        if read_meta(folder) is None:
            os.replace(folder, damaged)
            os.replace(new, folder)


@dataclass
class Progress:
    """Counts the items of a source and reports rate and remaining time every 10 seconds.

    Attributes:
        verb: past tense of the action, such as `read`.
        num_repeated: number of duplicates, which the caller counts.
        num_skipped: number of invalid items; `skipped` has the messages of the first 20.
    """

    verb: str
    source: Source | ImageSource
    report: Callable[[str], None]
    num_done: int = 0
    num_repeated: int = 0
    num_skipped: int = 0
    skipped: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)
    reported_at: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1) -> None:
        """Counts `count` more items as done."""
        self.num_done += count
        now = time.monotonic()
        if now - self.reported_at >= REPORT_EVERY_SECONDS:
            self.reported_at = now
            seconds_per_item = (now - self.started_at) / self.num_done
            self.report(
                f"{self.verb} {self.num_done:,} of {format_count(self.source.num_items, self.source.unit)}, "
                f"{1 / seconds_per_item:,.0f} per second, "
                f"{format_duration(seconds_per_item * (self.source.num_items - self.num_done))} left"
            )

    def skip(self, message: str) -> None:
        """Records an invalid item, `name: reason`; raises DataError unless the source skips them."""
        if self.source.invalid == "error":
            raise DataError(f"{message}; fix or remove the file, or set data.invalid=skip")
        self.num_skipped += 1
        if len(self.skipped) < MAX_SKIPPED_NAMED:
            self.skipped.append(message)

    def facts(self) -> dict:
        """Number and first names of the skipped items, for `report_skipped`."""
        return {"num_skipped": self.num_skipped, "skipped": self.skipped}


def report_skipped(facts: dict, unit: str, report: Callable[[str], None]) -> None:
    """Reports the skipped items that `Progress.facts` recorded."""
    for message in facts["skipped"]:
        report(f"skipped {message}")
    if facts["num_skipped"] > len(facts["skipped"]):
        report(f"skipped {format_count(facts['num_skipped'] - len(facts['skipped']), f'more {unit}')}")
