"""The manifest of a checkpoint: what it holds, and whether that is still what was written."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from system.errors import RunError, reason

FORMAT_VERSION = 2
# Format 1 has neither hashes nor a list of tensors; TensorFlow's own checksums are all that guards it.
READABLE_FORMATS = (1, FORMAT_VERSION)
MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
MAX_NUMBER = 2**63


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
    required, kinds = ALWAYS, {key: KINDS[key] for key in ALWAYS}
    if manifest.get("format") in READABLE_FORMATS:
        required, kinds = (*ALWAYS, "data_fingerprint"), KINDS
    if manifest.get("format") == FORMAT_VERSION:
        required += ("files", "tensors")
    for key, is_right in kinds.items():
        if key in required and key not in manifest:
            raise RunError(f"its {MANIFEST} is damaged (it has no {key})")
        if key in manifest and not is_right(manifest[key]):
            raise RunError(f"its {MANIFEST} is damaged (its {key} is of another kind)")
    return manifest


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_NUMBER  # no bool, and no NaN


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_plain(value: object) -> bool:
    """Text in a line, that can be printed; no path has a NUL."""
    return isinstance(value, str) and value.isprintable()


def _list_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _dict_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _is_list_of_parts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_plain, [*value, *value.values()]))


ALWAYS = ("format", "step")
# Of what is read again somewhere; the rest is for people.
KINDS = {
    "format": _is_count,
    "step": _is_count,
    "data_fingerprint": _is_plain,
    "files": _is_list_of_parts,
    "tensors": _is_list_of_parts,
    "config": _dict_of(lambda value: True),
    "environment": _dict_of(lambda value: not isinstance(value, list) or _list_of(_is_text)(value)),
    "replicas": _is_count,
    "elapsed_seconds": _is_number,
    "bad_steps": _dict_of(_is_count),
    "classes": _list_of(_is_text),
    "mean": _list_of(_is_number),
    "deviation": _list_of(_is_number),
}
