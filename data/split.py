"""Which text trains the model and which is held out."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

Split = Literal["train", "validation"]
Document = tuple[str, bytes]

# With 8 documents expected on the smaller side, a side stays empty once in e**8 = 3,000 corpora.
MIN_EXPECTED_DOCUMENTS = 8


class Duplicates:
    """Recognises a document whose exact content has been seen before; remembers 32 bytes a document."""

    def __init__(self):
        self.count = 0
        self._seen: set[bytes] = set()

    def is_new(self, content: bytes) -> bool:
        """Whether `content` is seen for the first time."""
        digest = hashlib.sha256(content).digest()
        if digest in self._seen:
            self.count += 1
            return False
        self._seen.add(digest)
        return True


def hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone: the same on every machine, in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def held_out_share(documents: Iterable[Document], *, held_out: float) -> int | None:
    """Bytes to hold out, where whole documents can be: at least 8 are expected on either side; else None.

    Reads every document once, and does not keep them.
    """
    sizes = [len(content) for _, content in documents]
    if len(sizes) * min(held_out, 1 - held_out) < MIN_EXPECTED_DOCUMENTS:
        return None
    return round(sum(sizes) * held_out)


def split_by_name(
    documents: Iterable[Document], *, held_out: float, share: int
) -> Iterator[tuple[Split, bytes]]:
    """Holds out whole documents: those whose name hashes below `held_out`.

    A document keeps its side when others come or go. One longer than `share`, the bytes to hold out, would
    alone be more than all that is held out, so it is split by its tail. Content must be unique among
    `documents`; otherwise two names of one text can land on both sides.
    """
    for name, content in documents:
        if len(content) > share:
            yield from split_by_tail([(name, content)], held_out=held_out)
        else:
            yield ("validation" if hash_fraction(name) < held_out else "train"), content


def split_by_tail(documents: Iterable[Document], *, held_out: float) -> Iterator[tuple[Split, bytes]]:
    """Holds out the last `held_out` of each document, for a corpus of a few documents or of one file.

    The cut never divides a UTF-8 character. A document too short to be cut is training text as a whole.
    """
    for _, content in documents:
        cut = _character_start(content, len(content) - round(len(content) * held_out))
        for split, part in (("train", content[:cut]), ("validation", content[cut:])):
            if part:
                yield split, part


def _character_start(content: bytes, index: int) -> int:
    """The start of the UTF-8 character that holds byte `index`; 0 is never returned for a filled document."""
    while 0 < index < len(content) and content[index] & 0xC0 == 0x80:
        index -= 1
    return index or len(content)
