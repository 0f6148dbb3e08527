"""The manifest of a checkpoint: what it holds, and whether that is still what was written."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from training.errors import RunError, reason

FORMAT_VERSION = 2
# Format 1 has neither hashes nor a list of tensors; TensorFlow's own checksums are all that guards it.
READABLE_FORMATS = (1, FORMAT_VERSION)
MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"


def write_manifest(directory: Path, facts: dict) -> None:
    """Writes `facts` (plain values) and the SHA-256 of each file of a checkpoint.

    The manifest's own SHA-256 stands beside it, as `sha256sum --check` reads it.
    """
    files = {path.name: sha256_of(path) for path in sorted(directory.iterdir())}
    manifest = {"format": FORMAT_VERSION, **facts, "files": files}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (directory / DIGEST).write_bytes(_digest_line(directory))


def read_manifest(directory: Path) -> dict:
    """The manifest of a checkpoint, as it stands; `verify` tells whether it is as it was written.

    Raises:
        RunError: if it is missing, damaged, of another format, or of another checkpoint.
    """
    manifest = _parsed(_content(directory / MANIFEST))
    found = manifest["format"]
    if found not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise RunError(f"its {MANIFEST} has format {found}, this program reads {known}")
    if directory.name != directory_name(manifest["step"]):
        raise RunError(f"its {MANIFEST} is that of step {manifest['step']}")
    return manifest


def verify(directory: Path, manifest: dict) -> None:
    """Compares each file of a checkpoint with its SHA-256.

    Raises:
        RunError: naming the file that is missing or damaged.
    """
    if manifest["format"] == 1 and not (directory / DIGEST).exists():
        return
    if _content(directory / DIGEST) != _digest_line(directory):
        raise RunError(f"its {MANIFEST} is damaged: it and its {DIGEST} do not belong together")
    for name, digest in manifest["files"].items():
        _check(directory / Path(name).name, digest)


def directory_name(step: int) -> str:
    """Of a checkpoint."""
    return f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """That the name of a checkpoint tells; names alone do not sort by it, from 100,000,000 steps on."""
    return int(directory.name.removeprefix("step-"))


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_line(directory: Path) -> bytes:
    """What `sha256sum manifest.json` prints."""
    return f"{sha256_of(directory / MANIFEST)}  {MANIFEST}\n".encode()


def _check(path: Path, digest: str) -> None:
    with _named(path):
        is_whole = sha256_of(path) == digest
    if not is_whole:
        raise RunError(f"its {path.name} is damaged: it has another SHA-256 than when it was written")


def _content(path: Path) -> bytes:
    with _named(path):
        return path.read_bytes()


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says which file cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"its {path.name} is missing") from error
    except OSError as error:
        raise RunError(f"its {path.name} cannot be read ({reason(error)})") from error


def _parsed(content: bytes) -> dict:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"its {MANIFEST} is damaged ({reason(error)})") from error
    manifest = manifest if isinstance(manifest, dict) else {}
    wanted = {"format": int, "step": int}
    if manifest.get("format") in READABLE_FORMATS:
        wanted |= {"data_fingerprint": str}
    if manifest.get("format") == FORMAT_VERSION:
        wanted |= {"files": dict, "tensors": dict}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            raise RunError(f"its {MANIFEST} is damaged (it has no {key})")
    return manifest
