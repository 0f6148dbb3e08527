"""A text corpus as two memory-mapped arrays of byte tokens: one to train on, one held out.

Each split is stored as NUL document NUL document NUL ... NUL, so that a model sees where a document starts
and where it ends. Exact duplicates are dropped, and text that is held out never repeats a training document.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from data.cache import (
    build_folder,
    cache_folder,
    fingerprint_of,
    map_tokens,
    read_meta,
    split_writers,
    write_meta,
)
from data.config import PythonStdlibConfig, TextFilesConfig, TfdsTextConfig
from data.sources import Documents, Source, python_stdlib_source, text_files_source
from data.split import Duplicates, Split, held_out_share, split_by_name, split_by_tail
from data.tokens import InvalidText, clean_text
from system.errors import DataError

TextConfig = PythonStdlibConfig | TextFilesConfig | TfdsTextConfig
Report = Callable[[str], None]

MAX_SKIPPED_NAMED = 20
PROGRESS_EVERY_SECONDS = 10


@dataclass(frozen=True)
class TextCorpus:
    """Tokens of one corpus.

    Attributes:
        train: (train length,) uint8 tokens, read from disk as they are used.
        validation: (validation length,) uint8 tokens.
        train_documents: number of documents in `train`.
        validation_documents: number of documents, or of their tails, in `validation`.
        fingerprint: SHA-256 over the tokens of both splits; equal fingerprints mean equal text.
        description: one line about the source and its size.
    """

    train: np.ndarray
    validation: np.ndarray
    train_documents: int
    validation_documents: int
    fingerprint: str
    description: str


def load_text(config: TextConfig, *, report: Report = print) -> TextCorpus:
    """The corpus of `config`, from the cache on disk if none of its documents has changed since.

    Args:
        config: one of the text classes of `data.config`.
        report: receives one-line messages: progress, and the documents that were skipped.

    Raises:
        DataError: if the documents cannot be found or read, no text is left, or the cache cannot be written.
    """
    source = _source(config, report=report)
    folder = cache_folder(config.cache_dir, config.source, source.identity | {"held_out": _held_out(config)})
    meta = read_meta(folder)
    if meta is None:
        report(f"tokenizing {_counted(source.num_items, source.unit)} of {source.name}")
        build_folder(folder, lambda path: _tokenize(source, path, held_out=config.held_out, report=report))
        meta = read_meta(folder)
    for message in meta["skipped"]:
        report(f"skipped {message}")
    if meta["num_skipped"] > len(meta["skipped"]):
        report(f"skipped {_counted(meta['num_skipped'] - len(meta['skipped']), f'more {source.unit}')}")
    return TextCorpus(
        train=map_tokens(folder, "train"),
        validation=map_tokens(folder, "validation"),
        train_documents=meta["splits"]["train"]["documents"],
        validation_documents=meta["splits"]["validation"]["documents"],
        fingerprint=meta["fingerprint"],
        description=_description(source.name, meta),
    )


def check_length(corpus: TextCorpus, context_length: int) -> None:
    """Refuses a corpus that does not fill one window of `context_length` tokens and their successors.

    Raises:
        DataError: if either split is shorter than `context_length + 1` tokens.
    """
    advice = {"train": "give more text", "validation": "give more text or raise data.held_out"}
    for split, tokens in (("train", corpus.train), ("validation", corpus.validation)):
        if len(tokens) < context_length + 1:
            raise DataError(
                f"the {split} split has {len(tokens):,} tokens but one window needs {context_length + 1:,} "
                f"(context_length {context_length:,} + 1); {advice[split]}, or lower context_length"
            )


def _source(config: TextConfig, *, report: Report) -> Source:
    match config:
        case PythonStdlibConfig():
            return python_stdlib_source(config)
        case TextFilesConfig():
            return text_files_source(config)
        case TfdsTextConfig():
            from data.tfds_source import tfds_source

            return tfds_source(config, report=report)
        case _:
            raise TypeError(f"config must be a text class of data.config, got {type(config).__name__}")


def _held_out(config: TextConfig) -> float | None:
    """The fraction that decides the split; None where the source brings its own."""
    return None if getattr(config, "validation_split", None) is not None else config.held_out


@dataclass
class _Intake:
    """Cleans raw documents and drops the unusable and the repeated ones."""

    source: Source
    report: Report
    duplicates: Duplicates = field(default_factory=Duplicates)
    skipped: list[str] = field(default_factory=list)
    num_skipped: int = 0
    _num_read: int = 0
    _reported_at: float = field(default_factory=time.monotonic)

    def documents(self, raw_documents: Documents) -> Iterator[tuple[str, bytes]]:
        """(name, content) of each document that is text, is not empty and was not seen before."""
        for name, raw in raw_documents:
            self._count()
            try:
                content = clean_text(raw)
            except InvalidText as reason:
                self._skip(f"{name}: {reason}")
                continue
            if content and self.duplicates.is_new(content):
                yield name, content

    def _skip(self, message: str) -> None:
        if self.source.invalid == "error":
            raise DataError(f"{message}; mend the file, leave it out of data.path, or set data.invalid=skip")
        self.num_skipped += 1
        if len(self.skipped) < MAX_SKIPPED_NAMED:
            self.skipped.append(message)

    def _count(self) -> None:
        self._num_read += 1
        if time.monotonic() - self._reported_at >= PROGRESS_EVERY_SECONDS:
            self._reported_at = time.monotonic()
            self.report(
                f"tokenized {self._num_read:,} of {_counted(self.source.num_items, self.source.unit)}"
            )


def _tokenize(source: Source, folder: Path, *, held_out: float, report: Report) -> None:
    """Writes both splits of `source` and their facts into `folder`."""
    intake = _Intake(source, report)
    rule, parts = _split(source, intake, held_out=held_out)
    with split_writers(folder) as writers:
        for split, content in parts:
            writers[split].add(content)
        splits = {split: writer.meta() for split, writer in writers.items()}
    facts = {"rule": rule, "held_out": held_out, "duplicates": intake.duplicates.count}
    facts |= {"num_skipped": intake.num_skipped, "skipped": intake.skipped}
    _check_filled(source, splits, intake)
    write_meta(folder, {"splits": splits, "fingerprint": fingerprint_of(splits), **facts})


def _split(source: Source, intake: _Intake, *, held_out: float) -> tuple[str, Iterable[tuple[Split, bytes]]]:
    """The rule that divides the documents, and (split, content) of each part."""
    if source.validation_documents is not None:
        train = (("train", content) for _, content in intake.documents(source.documents()))
        validation = (
            ("validation", content) for _, content in intake.documents(source.validation_documents())
        )
        return "source", chain(train, validation)
    # How many documents are usable is known only after reading them: a first look, apart from the intake.
    look = _Intake(source, intake.report).documents(source.documents())
    share = held_out_share(look, held_out=held_out)
    documents = intake.documents(source.documents())
    if share is None:
        return "tail", split_by_tail(documents, held_out=held_out)
    return "name", split_by_name(documents, held_out=held_out, share=share)


def _check_filled(source: Source, splits: dict[str, dict], intake: _Intake) -> None:
    for split, use in (("train", "to train on"), ("validation", "to hold out")):
        if not splits[split]["documents"]:
            first = f" (first: {intake.skipped[0]})" if intake.skipped else ""
            raise DataError(
                f"{source.name}: no text is left {use}: of {_counted(source.num_items, source.unit)}, "
                f"{intake.num_skipped:,} skipped{first}, {intake.duplicates.count:,} repeated; give more text"
            )


def _description(name: str, meta: dict) -> str:
    train, validation = meta["splits"]["train"], meta["splits"]["validation"]
    trained = f"{_counted(train['documents'], 'document')}, {_size(train)} for training"
    if meta["rule"] == "tail":
        held_out = f"the last {100 * meta['held_out']:g} % of each, {_size(validation)},"
    else:
        held_out = f"{_counted(validation['documents'], 'document')}, {_size(validation)}"
    return f"{name}: {trained}; {held_out} held out"


def _counted(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _size(split: dict) -> str:
    if split["tokens"] < 100_000:
        return f"{split['tokens'] / 1e3:.1f} kB"
    return f"{split['tokens'] / 1e6:,.1f} MB"
