"""Bytes as tokens: 0 separates documents, 1 to 255 are the bytes of UTF-8 text."""

import numpy as np

SEPARATOR = 0
VOCAB_SIZE = 256


class InvalidText(ValueError):
    """Bytes that are not text; the message is the reason."""


def encode(text: str) -> np.ndarray:
    """UTF-8 bytes of `text` as (length,) uint8 tokens, without separators.

    Bytes of a command line that are not UTF-8 (surrogate escapes in `sys.argv`) are restored.
    """
    return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), np.uint8).copy()


def decode(tokens) -> str:
    """Text of (length,) integer tokens; bytes that are not UTF-8 become U+FFFD.

    Raises:
        ValueError: if a token is outside 0..255.
    """
    tokens = np.asarray(tokens)
    if tokens.size and (tokens.min() < 0 or tokens.max() >= VOCAB_SIZE):
        raise ValueError(
            f"byte tokens must be in 0..{VOCAB_SIZE - 1}, got {tokens.min()}..{tokens.max()}. "
            "Use a model with a byte vocabulary."
        )
    return tokens.astype(np.uint8).tobytes().decode("utf-8", errors="replace")


def clean_text(raw: bytes) -> bytes:
    r"""Bytes of one document ready to be tokens: \r\n and lone \r become \n.

    Raises:
        InvalidText: if `raw` is not UTF-8 or contains NUL, the separator.
    """
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(f"not UTF-8 at byte {error.start}") from None
    if b"\0" in raw:
        raise InvalidText(f"contains NUL at byte {raw.index(0)}")
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
