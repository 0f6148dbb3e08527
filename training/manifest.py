"""Manifest of a checkpoint: its facts, and the SHA-256 of its files."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from system.errors import RunError, reason

FORMAT = 3
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"
REQUIRED = ("format", "step", "data_fingerprint", "files", "tensors")


def directory_name(step: int) -> str:
    """Directory name of the checkpoint of `step`."""
    return f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """Step in the name of a checkpoint; names alone sort wrongly from 100,000,000 steps on."""
    return int(directory.name.removeprefix("step-"))


def write_manifest(directory: Path, facts: dict) -> None:
    """Writes `facts` (JSON values) with the SHA-256 of each file of a checkpoint.

    The manifest's own SHA-256 is in a second file, in the format of `sha256sum --check`.
    """
    files = {path.name: sha256_of(path) for path in sorted(directory.iterdir())}
    content = (json.dumps({"format": FORMAT, **facts, "files": files}, indent=1) + "\n").encode()
    (directory / MANIFEST).write_bytes(content)
    (directory / DIGEST).write_bytes(digest_line(content))


def read_manifest(directory: Path) -> dict:
    """Reads the manifest of a checkpoint and compares it with its own SHA-256.

    Raises:
        RunError: if it is missing, damaged, of another format or of another step.
    """
    content = read(directory / MANIFEST)
    if read(directory / DIGEST) != digest_line(content):
        raise RunError(f"{MANIFEST} is damaged: its SHA-256 is not the one in {DIGEST}")
    try:
        manifest = json.loads(content)
        missing = [key for key in REQUIRED if key not in manifest]
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{MANIFEST} is damaged ({reason(error)})") from error
    if missing:
        raise RunError(f"{MANIFEST} is damaged: it has no {missing[0]}")
    if manifest["format"] != FORMAT:
        raise RunError(f"{MANIFEST} has format {manifest['format']}, expected {FORMAT}")
    if manifest["step"] != step_of(directory):
        raise RunError(f"{MANIFEST} is that of step {manifest['step']}")
    return manifest


def check_files(directory: Path, manifest: dict) -> None:
    """Raises RunError naming the first file of a checkpoint that is missing or has another SHA-256."""
    for name, digest in manifest["files"].items():
        with naming(directory / name):
            is_intact = sha256_of(directory / name) == digest
        if not is_intact:
            raise RunError(f"{name} is damaged: its SHA-256 is not the one in {MANIFEST}")


def read(path: Path) -> bytes:
    with naming(path):
        return path.read_bytes()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns an OSError inside into a RunError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"{path.name} is missing") from error
    except OSError as error:
        raise RunError(f"{path.name} cannot be read ({reason(error)})") from error


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_line(manifest: bytes) -> bytes:
    """Output of `sha256sum manifest.json`."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
