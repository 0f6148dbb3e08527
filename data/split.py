"""Division of documents into a training and a held-out split."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Document = tuple[str, bytes]

# With 8 documents expected on the smaller side, a side is empty in one of e**8 = 3,000 corpora.
MIN_EXPECTED_DOCUMENTS = 8


def hash_fraction(name: str) -> float:
    """Number in [0, 1) that depends on `name` alone: the same on every machine, in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def held_out_bytes(documents: Iterable[Document], *, held_out: float) -> int | None:
    """Bytes to hold out in whole documents; None if either split would have fewer than 8 on average.

    Reads every document once and keeps none in memory.
    """
    sizes = [len(content) for _, content in documents]
    if len(sizes) * min(held_out, 1 - held_out) < MIN_EXPECTED_DOCUMENTS:
        return None
    return round(sum(sizes) * held_out)


def split_by_name(
    documents: Iterable[Document], *, held_out: float, max_bytes: int
) -> Iterator[tuple[Split, bytes]]:
    """Holds out the documents whose name hashes below `held_out`.

    A document keeps its split when others are added or removed. One of more than `max_bytes`, the bytes to
    hold out, is divided by `split_by_tail`. Content must be unique among `documents`; otherwise two names of
    one text can fall into both splits.
    """
    for name, content in documents:
        if len(content) > max_bytes:
            yield from split_by_tail([(name, content)], held_out=held_out)
        else:
            yield ("validation" if hash_fraction(name) < held_out else "train"), content


def split_by_tail(documents: Iterable[Document], *, held_out: float) -> Iterator[tuple[Split, bytes]]:
    """Holds out the last `held_out` of each document, for a corpus of one or a few documents.

    The cut never divides a UTF-8 character. A document too short to be cut is training text.
    """
    for _, content in documents:
        cut = _character_start(content, len(content) - round(len(content) * held_out))
        for split, part in (("train", content[:cut]), ("validation", content[cut:])):
            if part:
                yield split, part


def _character_start(content: bytes, index: int) -> int:
    """Start of the UTF-8 character that contains byte `index`; the end of `content` in place of 0."""
    while 0 < index < len(content) and content[index] & 0xC0 == 0x80:
        index -= 1
    return index or len(content)
