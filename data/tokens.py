"""Bytes as tokens: 0 separates documents, 1 to 255 are the bytes of UTF-8 text."""

import numpy as np

from data.sources import InvalidItem

SEPARATOR = 0
VOCAB_SIZE = 256


def encode(text: str) -> np.ndarray:
    """UTF-8 bytes of `text` as (length,) uint8 tokens; surrogate escapes of a command line are restored."""
    return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), np.uint8).copy()


def decode(tokens) -> str:
    """Text of (length,) integer tokens in 0..255; bytes that are not UTF-8 become U+FFFD."""
    return bytes(np.asarray(tokens).tolist()).decode("utf-8", errors="replace")


def clean_text(raw: bytes) -> bytes:
    r"""Text with \n for \r\n and \r, no byte order mark; raises InvalidItem if not UTF-8 or if it has NUL."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidItem(f"not UTF-8 at byte {error.start}") from None
    if b"\0" in raw:
        raise InvalidItem(f"contains NUL at byte {raw.index(0)}")
    return raw.removeprefix("\ufeff".encode()).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
