"""A text corpus as two memory-mapped arrays of byte tokens: a training and a held-out split.

Each split is stored as NUL document NUL document NUL ... NUL, so that a model sees where a document starts
and ends. Exact duplicates are dropped, and held-out text never repeats a training document.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from data.config import PythonStdlibConfig, TextFilesConfig, TfdsTextConfig
from data.disk_cache import Progress, cache_folder, hash_files, load_or_build, report_skipped
from data.sources import (
    SPLITS,
    Document,
    Documents,
    Source,
    Split,
    hash_fraction,
    python_stdlib_source,
    text_files_source,
)
from data.tfds import tfds_source
from data.tokens import SEPARATOR, InvalidText, clean_text
from system.errors import DataError
from system.text import format_count

TextConfig = PythonStdlibConfig | TextFilesConfig | TfdsTextConfig
Report = Callable[[str], None]

# With 8 documents expected on the smaller side, a side is empty in one of e**8 = 3,000 corpora.
MIN_EXPECTED_DOCUMENTS = 8


@dataclass(frozen=True)
class TextCorpus:
    """Tokens of one corpus.

    Attributes:
        train, validation: (length,) uint8 tokens, memory-mapped.
        fingerprint: SHA-256 over the tokens of both splits.
        description: one line about the source and its size.
    """

    train: np.ndarray
    validation: np.ndarray
    fingerprint: str
    description: str


def load_text(config: TextConfig, *, report: Report = print) -> TextCorpus:
    """Loads the corpus of `config` from the cache, which is built first if any document has changed.

    `report` receives one-line messages: progress and skipped documents.

    Raises:
        DataError: if the documents cannot be found or read, no text is left, or the cache cannot be written.
    """
    source = _source(config, report=report)
    # A source with a validation split of its own does not depend on `held_out`.
    held_out = config.held_out if source.validation_documents is None else None
    folder = cache_folder(config.cache_dir, config.source, source.identity | {"held_out": held_out})
    meta = load_or_build(folder, lambda path: _tokenize(source, path, config.held_out, report))
    report_skipped(meta, source.unit, report)
    train, validation = (np.memmap(folder / f"{split}.bin", np.uint8, mode="r") for split in SPLITS)
    train_size, held_out_size = (
        f"{format_count(meta['documents'][split], 'document')}, {_format_size(len(tokens))}"
        for split, tokens in zip(SPLITS, (train, validation), strict=True)
    )
    if meta["rule"] == "tail":
        held_out_size = f"the last {100 * config.held_out:g} % of each, {_format_size(len(validation))},"
    return TextCorpus(
        train=train,
        validation=validation,
        fingerprint=meta["fingerprint"],
        description=f"{source.name}: {train_size} for training; {held_out_size} held out",
    )


def check_length(corpus: TextCorpus, context_length: int) -> None:
    """Raises DataError if a split is shorter than one window, `context_length + 1` tokens."""
    for split, tokens, advice in (
        ("train", corpus.train, "add text"),
        ("validation", corpus.validation, "add text, increase data.held_out"),
    ):
        if len(tokens) < context_length + 1:
            raise DataError(
                f"the {split} split has {len(tokens):,} tokens but one window needs {context_length + 1:,} "
                f"(context_length {context_length:,} + 1); {advice} or decrease context_length"
            )


def _source(config: TextConfig, *, report: Report) -> Source:
    match config:
        case PythonStdlibConfig():
            return python_stdlib_source(config)
        case TextFilesConfig():
            return text_files_source(config)
        case TfdsTextConfig():
            return tfds_source(config, report=report)
        case _:
            raise TypeError(f"config must be a text class of data.config, got {type(config).__name__}")


def _usable(documents: Documents, progress: Progress, digests: set[bytes]) -> Iterator[Document]:
    """Cleaned documents that are text, not empty and not in `digests`, the SHA-256 of those so far."""
    for name, raw in documents:
        progress.advance()
        try:
            content = clean_text(raw)
        except InvalidText as error:
            progress.skip(f"{name}: {error}")
            continue
        digest = hashlib.sha256(content).digest()
        if digest in digests:
            progress.num_repeated += 1
        elif content:
            digests.add(digest)
            yield name, content


def _tokenize(source: Source, folder: Path, held_out: float, report: Report) -> dict:
    """Writes both splits into `folder`; returns the facts for `meta.json`."""
    report(f"tokenizing {format_count(source.num_items, source.unit)} of {source.name}")
    progress = Progress("tokenized", source, report)
    rule, parts = _divide(source, held_out, progress, report)
    num_documents = _write_splits(parts, folder)
    for split, use in (("train", "training"), ("validation", "validation")):
        if not num_documents[split]:
            first = f" (first: {progress.skipped[0]})" if progress.skipped else ""
            raise DataError(
                f"{source.name}: no text is left for {use}: of "
                f"{format_count(source.num_items, source.unit)}, {progress.num_skipped:,} skipped{first}, "
                f"{progress.num_repeated:,} repeated; add text"
            )
    hashes = hash_files(folder)
    fingerprint = hashlib.sha256(" ".join(hashes[f"{split}.bin"] for split in SPLITS).encode()).hexdigest()
    return {"documents": num_documents, "fingerprint": fingerprint, "rule": rule} | progress.facts()


def _divide(
    source: Source, held_out: float, progress: Progress, report: Report
) -> tuple[str, Iterable[tuple[Split, bytes]]]:
    """Name of the rule that divides the documents, and (split, content) of each part."""
    digests: set[bytes] = set()
    documents = _usable(source.documents(), progress, digests)
    if source.validation_documents is not None:
        validation = _usable(source.validation_documents(), progress, digests)
        return "source", chain(
            (("train", content) for _, content in documents),
            (("validation", content) for _, content in validation),
        )
    # The rule depends on the number and sizes of the usable documents: read all of them twice.
    first_pass = Progress("measured", source, report)
    max_bytes = held_out_bytes(_usable(source.documents(), first_pass, set()), held_out=held_out)
    if max_bytes is None:
        return "tail", split_by_tail(documents, held_out=held_out)
    return "name", split_by_name(documents, held_out=held_out, max_bytes=max_bytes)


def held_out_bytes(documents: Iterable[Document], *, held_out: float) -> int | None:
    """Bytes to hold out in whole documents; None if either split would have fewer than 8 on average."""
    sizes = [len(content) for _, content in documents]
    if len(sizes) * min(held_out, 1 - held_out) < MIN_EXPECTED_DOCUMENTS:
        return None
    return round(sum(sizes) * held_out)


def split_by_name(
    documents: Iterable[Document], *, held_out: float, max_bytes: int
) -> Iterator[tuple[Split, bytes]]:
    """Holds out the documents whose name hashes below `held_out`.

    A document keeps its split when others are added or removed. One of more than `max_bytes`, the bytes to
    hold out, is divided by `split_by_tail`. The documents must not repeat.
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


def _write_splits(parts: Iterable[tuple[Split, bytes]], folder: Path) -> dict[Split, int]:
    """Writes documents with separators around them; returns the number of documents of each split."""
    separator = bytes([SEPARATOR])
    num_documents = dict.fromkeys(SPLITS, 0)
    with open(folder / "train.bin", "wb") as train, open(folder / "validation.bin", "wb") as validation:
        files = {"train": train, "validation": validation}
        train.write(separator)
        validation.write(separator)
        for split, content in parts:
            files[split].write(content + separator)
            num_documents[split] += 1
    return num_documents


def _format_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes < 100_000 else f"{num_bytes / 1e6:,.1f} MB"
