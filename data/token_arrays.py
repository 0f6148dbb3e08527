"""Subword tokens of a corpus: training of the tokenizer, and token arrays in the cache."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.sources import (
    SPLITS,
    MappedFile,
    Progress,
    Report,
    Source,
    Split,
    cache_folder,
    hash_files,
    load_or_build,
)
from data.tokenizer import FILE_NAME, JsonTokenizer, read_tokenizer, train_bpe

# Bytes that are encoded at once on all processors, and those of the longest text among them. An encoding
# takes more than 100 bytes of memory for each token.
BLOCK_BYTES, PIECE_BYTES = 2**22, 2**18
# Text that a tokenizer is trained on, in pieces that are spread evenly over a longer one.
MAX_TRAINING_BYTES, TRAINING_PIECE_BYTES = 100_000_000, 1_000_000


def tokenize(
    splits: dict[Split, np.ndarray],
    tokenizer: JsonTokenizer,
    *,
    name: str,
    facts: dict,
    cache_dir: str | None,
    report: Report,
) -> tuple[dict[Split, np.ndarray], str]:
    """Tokens of each split, memory-mapped, and the SHA-256 over both.

    Args:
        splits: (num_bytes,) uint8 documents of each split, after, between and before NUL.
        tokenizer: its separator takes the place of NUL.
        name: name of the text in messages.
        facts: JSON values about the text, which identify it.
        cache_dir: see `cache_folder`.
        report: receives one-line messages.
    """
    identity = {**facts, "tokenizer_sha256": tokenizer.sha256, "dtype": tokenizer.dtype.name}
    folder = cache_folder(cache_dir, "tokens", identity)

    def build(folder: Path, progress: Progress) -> dict:
        for split in SPLITS:
            with open(folder / f"{split}.bin", "wb") as file:
                for tokens in token_arrays(splits[split], tokenizer, progress):
                    file.write(tokens.tobytes())
        hashes = " ".join(hash_files(folder).values())
        return identity | {"fingerprint": hashlib.sha256(hashes.encode()).hexdigest()}

    size = sum(map(len, splits.values()))
    source = Source(name, identity, size, "byte", action=("tokenizing", "tokenized"))
    meta = load_or_build(folder, source, build, report=report)
    arrays = {split: MappedFile(folder / f"{split}.bin", meta["dtype"], mode="r") for split in SPLITS}
    return arrays, meta["fingerprint"]


def token_arrays(stored: np.ndarray, tokenizer: JsonTokenizer, progress: Progress) -> Iterator[np.ndarray]:
    """Arrays that together are the tokens of a split, with separators around the documents."""
    separator = np.array([tokenizer.separator], tokenizer.dtype)
    yield separator
    for pieces in read_blocks(stored):
        arrays = tokenizer.encode_batch([text for text, _ in pieces])
        for (_, ends_document), tokens in zip(pieces, arrays, strict=True):
            yield tokens
            if ends_document:
                yield separator
        progress.advance(sum(len(text.encode()) + ends_document for text, ends_document in pieces))


def read_blocks(stored: np.ndarray) -> Iterator[list[tuple[str, bool]]]:
    """Lists of texts, `BLOCK_BYTES` each, and whether a document ends after the text.

    A document longer than `PIECE_BYTES` is divided, after a line if possible; the pieces depend on the
    document alone. A tokenizer that puts a space before a text puts one before each piece.
    """
    start, size, pieces = 1, 0, []
    while start < len(stored):
        block = stored[start : start + PIECE_BYTES].tobytes()
        *documents, rest = block.split(b"\0")
        pieces += [(document.decode(), True) for document in documents]
        if not documents:
            cut = rest.rfind(b"\n") + 1 or character_start(rest, len(rest) - 3)
            pieces.append((rest[:cut].decode(), False))
            rest = rest[cut:]
        start, size = start + len(block) - len(rest), size + len(block) - len(rest)
        if size >= BLOCK_BYTES or start >= len(stored):
            yield pieces
            size, pieces = 0, []


def character_start(content: bytes, index: int) -> int:
    """Start of the UTF-8 character that contains the byte at `index`."""
    while 0 < index < len(content) and content[index] & 0xC0 == 0x80:
        index -= 1
    return index


def trained_tokenizer(
    stored: np.ndarray, *, vocab_size: int, name: str, facts: dict, cache_dir: str | None, report: Report
) -> JsonTokenizer:
    """Byte-level BPE of a training split, (num_bytes,) uint8; other arguments as in `tokenize`.

    Raises:
        DataError: if the text is too short for the vocabulary.
    """
    import tokenizers

    size = min(len(stored), MAX_TRAINING_BYTES)
    identity = {**facts, "vocab_size": vocab_size, "training_bytes": size, "library": tokenizers.__version__}
    folder = cache_folder(cache_dir, "bpe", identity)

    def texts() -> Iterator[str]:
        last, count = max(0, len(stored) - TRAINING_PIECE_BYTES), -(-size // TRAINING_PIECE_BYTES)
        for start in np.linspace(0, last, count).astype(int):
            piece = stored[start : start + TRAINING_PIECE_BYTES].tobytes()
            yield from piece.decode(errors="ignore").split("\0")

    def build(folder: Path, progress: Progress) -> dict:
        (folder / FILE_NAME).write_text(train_bpe(texts(), vocab_size=vocab_size).json, "utf-8")
        return identity

    source = Source(name, identity, size, "byte", action=("training a tokenizer on", "read"))
    load_or_build(folder, source, build, report=report)
    return read_tokenizer(folder / FILE_NAME)
