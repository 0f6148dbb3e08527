"""Text as two memory-mapped arrays of tokens: a training and a held-out split.

Each split is stored as NUL document NUL document NUL ... NUL in bytes, and from these in other tokens with
their separator, so that a model sees where a document starts and ends. Exact duplicates are dropped, and
held-out text never repeats a training document.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from data import sources
from data.config import BPE, PasskeyConfig, TextConfig, TfdsTextConfig
from data.sources import SPLITS, MappedFile, Progress, Report, Source, Split
from data.text_sources import files_source
from data.tokenizer import (
    BYTES,
    FILE_NAME,
    MIN_FREQUENCY,
    JsonTokenizer,
    Tokenizer,
    read_tokenizer,
    train_bpe,
)
from system.errors import DataError
from system.text import format_count, print_line

# Bytes that are encoded at once on all processors, and those of the longest text among them. An encoding
# takes more than 100 bytes of memory for each token.
BLOCK_BYTES, PIECE_BYTES = 2**22, 2**18
CHECKED_TEXTS = 20  # of which the tokenizer must keep every character
# Text that a tokenizer is trained on, in pieces that are spread evenly over a longer one.
MAX_TRAINING_BYTES, TRAINING_PIECE_BYTES = 100_000_000, 1_000_000


@dataclass(frozen=True)
class TextCorpus:
    """Tokens of one corpus."""

    train: np.ndarray  # (length,) tokens, memory-mapped
    validation: np.ndarray  # (length,) tokens, memory-mapped
    fingerprint: str  # SHA-256 over the tokens of both splits
    description: str  # one line about the source and its size
    num_bytes: dict[Split, int]  # of the documents of each split, without separators
    tokenizer: Tokenizer = BYTES

    def bits_per_byte(self, loss: float) -> float:
        """Held-out loss, in nats per token, as bits per byte, which are comparable between tokenizers."""
        return loss * (len(self.validation) - 1) / (self.num_bytes["validation"] * math.log(2))

    def bytes_of(self, num_tokens: int) -> int:
        """Approximate number of bytes of training text in `num_tokens` tokens."""
        return round(num_tokens * self.num_bytes["train"] / len(self.train))


def load_text(config: TextConfig, *, tokenizer: Tokenizer | None = None, report=print_line) -> TextCorpus:
    """Loads the corpus of `config` from the cache, which is built first if any document has changed.

    `tokenizer` replaces that of the config. DataError if documents, tokenizer or cache cannot be used.
    """
    if tokenizer is None and config.tokenizer != BPE:
        tokenizer = tokenizer_of(config)
    corpus = load_bytes(config, report)
    if tokenizer is None:
        tokenizer = train_tokenizer(corpus, config, report)
    return corpus if tokenizer.json is None else tokenize(corpus, tokenizer, config, report)


def tokenizer_of(config: TextConfig | PasskeyConfig) -> Tokenizer:
    """Tokenizer that a config names, other than `bpe`, or bytes; DataError if it cannot be read."""
    return BYTES if config.tokenizer in (None, "bytes") else read_tokenizer(config.tokenizer)


def load_bytes(config: TextConfig, report: Report) -> TextCorpus:
    """The corpus in byte tokens, from which that in other tokens is built."""
    if isinstance(config, TfdsTextConfig):
        from data.tfds import tfds_source  # slow to import

        source = tfds_source(config, report=report)
    else:
        source = files_source(config)
    identity = source.identity | {"held_out": source.held_out}
    folder = sources.cache_folder(config.cache_dir, config.source, identity)
    meta = sources.load_or_build(folder, source, partial(write_documents, source), report=report)
    splits = map_splits(folder, np.uint8)
    counts = meta["num_documents"]
    # A separator precedes each document, and one follows the last.
    num_bytes = {split: len(splits[split]) - counts[split] - 1 for split in SPLITS}
    train_size, held_out_size = (
        f"{format_count(counts[split], 'document')}, {num_bytes[split]:,} bytes" for split in SPLITS
    )
    cut = format_count(meta["num_divided"], "document")
    ends = f" (of {cut} only the last {100 * source.held_out:g} %)" if meta["num_divided"] else ""
    description = f"{source.name}: {train_size} for training; {held_out_size} held out{ends}"
    return TextCorpus(**splits, fingerprint=meta["fingerprint"], description=description, num_bytes=num_bytes)


def train_tokenizer(corpus: TextCorpus, config: TextConfig, report: Report) -> JsonTokenizer:
    """Byte-level BPE of the training split."""
    import tokenizers

    size, piece_size = min(len(corpus.train), MAX_TRAINING_BYTES), TRAINING_PIECE_BYTES
    identity = {"text_sha256": corpus.fingerprint, "vocab_size": config.bpe_vocab_size}
    identity |= {"training_bytes": size, "library": tokenizers.__version__, "min_frequency": MIN_FREQUENCY}
    folder = sources.cache_folder(config.cache_dir, "bpe", identity)

    def texts() -> Iterator[str]:
        last = max(0, len(corpus.train) - piece_size)
        for start in np.linspace(0, last, math.ceil(size / piece_size)).astype(int):
            piece = corpus.train[start : start + piece_size].tobytes()
            yield from piece.decode(errors="ignore").split("\0")

    def build(folder: Path, progress: Progress) -> dict:
        tokenizer = train_bpe(texts(), vocab_size=config.bpe_vocab_size)
        (folder / FILE_NAME).write_text(tokenizer.json, "utf-8")
        return identity

    source = Source(config.source, identity, size, "byte", action=("training a tokenizer on", "read"))
    sources.load_or_build(folder, source, build, report=report)
    return read_tokenizer(folder / FILE_NAME)


def tokenize(corpus: TextCorpus, tokenizer: JsonTokenizer, config: TextConfig, report: Report) -> TextCorpus:
    """The corpus, which is in bytes, in other tokens."""
    identity = {"text_sha256": corpus.fingerprint, "num_bytes": corpus.num_bytes}
    identity |= {"tokenizer_sha256": tokenizer.sha256, "dtype": tokenizer.dtype.name}
    folder = sources.cache_folder(config.cache_dir, "tokens", identity)

    def build(folder: Path, progress: Progress) -> dict:
        texts = [text for text, _ in next(read_blocks(corpus.train))[:CHECKED_TEXTS]]
        if any(tokenizer.decode(tokenizer.encode(text)) != text for text in texts):
            report("note: the tokenizer does not keep every character, so that bits per byte are too low")
        for split in SPLITS:
            with open(folder / f"{split}.bin", "wb") as file:
                write_tokens(getattr(corpus, split), tokenizer, file, progress)
        return identity | {"fingerprint": fingerprint_of(folder)}

    size = len(corpus.train) + len(corpus.validation)
    source = Source(config.source, identity, size, "byte", action=("tokenizing", "tokenized"))
    meta = sources.load_or_build(folder, source, build, report=report)
    splits = map_splits(folder, tokenizer.dtype)
    return replace(corpus, **splits, fingerprint=meta["fingerprint"], tokenizer=tokenizer)


def map_splits(folder: Path, dtype: np.dtype) -> dict[Split, np.ndarray]:
    """Memory-mapped tokens of each split in a cache entry."""
    return {split: MappedFile(folder / f"{split}.bin", dtype, mode="r") for split in SPLITS}


def write_tokens(stored: np.ndarray, tokenizer: JsonTokenizer, file: IO[bytes], progress: Progress) -> None:
    """Writes the tokens of a split, (num_bytes,) uint8, with separators around the documents."""
    separator = np.array([tokenizer.separator], tokenizer.dtype).tobytes()
    for parts in read_blocks(stored):
        for tokens, (text, is_first) in zip(tokenizer.encode_parts(parts), parts, strict=True):
            file.write((separator if is_first else b"") + tokens.tobytes())
            progress.advance(len(text.encode()) + is_first)
    file.write(separator)


def read_blocks(stored: np.ndarray) -> Iterator[list[tuple[str, bool]]]:
    """Lists of about `BLOCK_BYTES`: parts of documents, and whether each is the first of its document.

    A document longer than `PIECE_BYTES` is divided, after a line if possible.
    """
    start, block_start, parts, is_first = 1, 1, [], True
    while start < len(stored):
        block = stored[start : start + PIECE_BYTES].tobytes()
        cut = block.rfind(b"\0") + 1 or block.rfind(b"\n") + 1 or len(block)
        text = block[:cut].decode(errors="ignore")  # without the bytes of a divided character
        start += len(text.encode())
        for document in text.removesuffix("\0").split("\0"):
            parts.append((document, is_first))
            is_first = True
        is_first = text.endswith("\0")
        if start - block_start >= BLOCK_BYTES or start >= len(stored):
            yield parts
            block_start, parts = start, []


def check_length(corpus: TextCorpus, context_length: int) -> None:
    """Raises DataError if a split is shorter than one window, `context_length + 1` tokens."""
    for split in SPLITS:
        if (size := len(getattr(corpus, split))) < context_length + 1:
            raise DataError(
                f"the {split} split has {size:,} tokens but one window needs {context_length + 1:,} "
                "(context_length + 1); add text, change data.held_out, decrease context_length, or set "
                "data.tokenizer=bytes"
            )


def write_documents(source: Source, folder: Path, progress: Progress) -> dict:
    """Writes both splits into `folder`, with separators around the documents."""
    max_bytes = None
    if source.held_out is not None:
        # The split depends on the number and sizes of all usable documents, which are read twice.
        sizes = [len(text) for *_, text in usable_documents(source, Progress(source, progress.report))]
        max_bytes = held_out_bytes(sizes, held_out=source.held_out)
    num_documents, num_divided = dict.fromkeys(SPLITS, 0), 0
    with contextlib.ExitStack() as stack:
        files = {split: stack.enter_context(open(folder / f"{split}.bin", "wb")) for split in SPLITS}
        for file in files.values():
            file.write(b"\0")
        for split, name, text in usable_documents(source, progress):
            parts = {split: text}
            if max_bytes is not None:
                parts = divide(name, text, held_out=source.held_out, max_bytes=max_bytes)
            num_divided += len(parts) - 1
            for part_split, part in parts.items():
                files[part_split].write(part + b"\0")
                num_documents[part_split] += 1
    for split in SPLITS:
        if not num_documents[split]:
            raise DataError(
                f"{source.name}: no text is left for the {split} split of {source.describe_size()}, without "
                f"empty and repeated ones{progress.describe_skipped()}; add text"
            )
    counts = {"num_documents": num_documents, "num_divided": num_divided}
    return counts | {"fingerprint": fingerprint_of(folder)}


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over the hashes of the files in a folder."""
    return hashlib.sha256(" ".join(sources.hash_files(folder).values()).encode()).hexdigest()


def usable_documents(source: Source, progress: Progress) -> Iterator[tuple[Split, str, bytes]]:
    """Split, name and cleaned text of the documents that are valid, not empty and not repeated."""
    digests = set()
    for split in SPLITS if source.held_out is None else SPLITS[:1]:
        for name, raw in source.items(split):
            progress.advance()
            try:
                if isinstance(raw, DataError):
                    raise raw
                text = clean_text(raw)
            except DataError as error:
                progress.skip(name, error)
                continue
            digest = hashlib.sha256(text).digest()
            if text and digest not in digests:
                digests.add(digest)
                yield split, name, text


def clean_text(raw: bytes) -> bytes:
    r"""Text with \n for \r\n and \r, no byte order mark; raises DataError if not UTF-8 or if it has NUL."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}") from None
    if b"\0" in raw:
        raise DataError(f"contains NUL at byte {raw.index(0)}")
    return raw.removeprefix("\ufeff".encode()).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def held_out_bytes(sizes: Sequence[int], *, held_out: float) -> int:
    """Bytes to hold out in whole documents; 0 if either split would have fewer than 8 on average."""
    # With 8 documents expected on the smaller side, a side is empty in one of e**8 = 3,000 corpora.
    if len(sizes) * min(held_out, 1 - held_out) < 8:
        return 0
    return round(sum(sizes) * held_out)


def divide(name: str, content: bytes, *, held_out: float, max_bytes: int) -> dict[Split, bytes]:
    """Training and held-out part of a document.

    A document of up to `max_bytes`, see `held_out_bytes`, is held out if its name hashes below `held_out`, so
    that it keeps its split when others are added or removed. Of a longer one the last `held_out` is.
    """
    if len(content) <= max_bytes:
        return {"validation" if sources.hash_fraction(name) < held_out else "train": content}
    cut = len(content) - round(len(content) * held_out)
    while 0 < cut < len(content) and content[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
        cut -= 1
    if cut in (0, len(content)):
        return {"train": content}
    return {"train": content[:cut], "validation": content[cut:]}
