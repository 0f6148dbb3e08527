"""Files that a crash leaves whole."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a file that is always whole, and waits until it is on disk."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    os.replace(aside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
