"""Text as two memory-mapped arrays of byte tokens: a training and a held-out split.

Each split is stored as NUL document NUL document NUL ... NUL, so that a model sees where a document starts
and ends. Exact duplicates are dropped, and held-out text never repeats a training document.
"""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch, fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np

from data.config import PythonStdlibConfig, TextFilesConfig, TfdsTextConfig
from data.sources import (
    SPLITS,
    MappedFile,
    Progress,
    Report,
    Source,
    Split,
    cache_folder,
    file_state,
    hash_files,
    hash_fraction,
    load_or_build,
    read_file,
)
from data.tfds import tfds_source
from data.tokens import SEPARATOR, clean_text
from system.errors import DataError
from system.files import walk_files
from system.text import format_count, print_line, printable

TextConfig = PythonStdlibConfig | TextFilesConfig | TfdsTextConfig

STDLIB_EXCLUDED = (
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*"),
)


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


def load_text(config: TextConfig, *, report: Report = print_line) -> TextCorpus:
    """Loads the corpus of `config` from the cache, which is built first if any document has changed.

    `report` receives one-line messages: progress and skipped documents.

    Raises:
        DataError: if the documents cannot be found or read, no text is left, or the cache cannot be written.
    """
    match config:
        case PythonStdlibConfig():
            source = python_stdlib_source(config)
        case TextFilesConfig():
            source = text_files_source(config)
        case TfdsTextConfig():
            source = tfds_source(config, report=report)
        case _:
            raise TypeError(f"config must be a text class of data.config, got {type(config).__name__}")
    folder = cache_folder(config.cache_dir, config.source, source.identity | {"held_out": source.held_out})
    meta = load_or_build(folder, source, partial(_tokenize, source), report=report)
    train, validation = (MappedFile(folder / f"{split}.bin", np.uint8, mode="r") for split in SPLITS)
    train_size, held_out_size = (
        f"{format_count(meta['num_documents'][split], 'document')}, {len(tokens):,} tokens"
        for split, tokens in zip(SPLITS, (train, validation), strict=True)
    )
    cut = format_count(meta["num_divided"], "document")
    ends = f" (of {cut} only the last {100 * source.held_out:g} %)" if meta["num_divided"] else ""
    return TextCorpus(
        train=train,
        validation=validation,
        fingerprint=meta["fingerprint"],
        description=f"{source.name}: {train_size} for training; {held_out_size} held out{ends}",
    )


def check_length(corpus: TextCorpus, context_length: int) -> None:
    """Raises DataError if a split is shorter than one window, `context_length + 1` tokens."""
    for split, tokens in (("train", corpus.train), ("validation", corpus.validation)):
        if len(tokens) < context_length + 1:
            raise DataError(
                f"the {split} split has {len(tokens):,} tokens but one window needs {context_length + 1:,} "
                "(context_length + 1); add text, change data.held_out or decrease context_length"
            )


def python_stdlib_source(config: PythonStdlibConfig) -> Source:
    """The `*.py` files of the running Python's standard library, without its tests and tools."""
    root = Path(sysconfig.get_paths()["stdlib"])

    def is_included(parts: list[str], is_directory: bool) -> bool:
        is_excluded = any(fnmatch(parts[-1], each) for each in STDLIB_EXCLUDED)
        return not is_excluded and (is_directory or parts[-1].endswith(".py"))

    return _file_source(config.source, root, walk_files(root, is_included), held_out=config.held_out)


def text_files_source(config: TextFilesConfig) -> Source:
    """The user's files in sorted order.

    `config.path` is a file, a directory (all files below it) or a glob (`**` is any depth). Hidden files and
    folders are excluded unless the glob names their dot. The name of a document is its path relative to the
    directory, or to the part of the glob before the first wildcard.

    Raises:
        DataError: if the path matches no file.
    """
    root, pattern = _root_and_pattern(config.path)
    files = walk_files(root, lambda parts, is_directory: _matches(parts, pattern, is_directory))
    if not root.is_dir() or not files:
        raise DataError(
            f"data.path={config.path} matches no file in {root.absolute()}; check the path, or use "
            "a glob such as 'texts/**/*.txt' for files at any depth"
        )
    name = f"{config.source} {config.path}"
    return _file_source(name, root, files, held_out=config.held_out, invalid=config.invalid)


def _root_and_pattern(path: str) -> tuple[Path, list[str]]:
    """Directory that names are relative to, and the parts of the glob that their parts match."""
    if os.path.isdir(path):
        return Path(path), ["**"]
    root = Path(path)
    if os.path.exists(path):
        return root.parent, [glob.escape(printable(root.name))]
    while glob.has_magic(str(root)):
        root = root.parent
    return root, list(Path(printable(path)).parts[len(root.parts) :])


def _matches(parts: list[str], pattern: list[str], is_directory: bool) -> bool:
    """Whether a file matches the glob, or a file below a directory may match it."""
    if not parts:
        return bool(pattern) if is_directory else set(pattern) <= {"**"}
    if not pattern:
        return False
    if pattern[0] == "**" and _matches(parts, pattern[1:], is_directory):
        return True
    if parts[0].startswith(".") and not pattern[0].startswith("."):
        return False
    if pattern[0] == "**":
        return _matches(parts[1:], pattern, is_directory)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:], is_directory)


def _file_source(
    name: str, root: Path, files: list[tuple[str, Path]], *, held_out: float, invalid: str = "skip"
) -> Source:
    identity = {
        "root": str(root.absolute()),
        "files": [file_state(name, path) for name, path in files],
        "invalid": invalid,
    }

    def documents(split: Split) -> Iterator[tuple[str, bytes | DataError]]:
        for name, path in files:
            try:
                raw = read_file(path)
            except DataError as error:
                raw = error
            yield name, raw

    return Source(name, identity, len(files), "file", documents, held_out=held_out, invalid=invalid)


def _tokenize(source: Source, folder: Path, progress: Progress) -> dict:
    """Writes both splits into `folder`, with separators around the documents."""
    max_bytes = None
    if source.held_out is not None:
        # The split depends on the number and sizes of all usable documents, which are read twice.
        sizes = [len(content) for *_, content in _usable(source, Progress(source, progress.report))]
        max_bytes = held_out_bytes(sizes, held_out=source.held_out)
    separator = bytes([SEPARATOR])
    num_documents, num_divided = dict.fromkeys(SPLITS, 0), 0
    with open(folder / "train.bin", "wb") as train, open(folder / "validation.bin", "wb") as validation:
        files = {"train": train, "validation": validation}
        for file in files.values():
            file.write(separator)
        for split, name, content in _usable(source, progress):
            parts = {split: content}
            if max_bytes is not None:
                parts = divide(name, content, held_out=source.held_out, max_bytes=max_bytes)
            num_divided += len(parts) - 1
            for part_split, part in parts.items():
                files[part_split].write(part + separator)
                num_documents[part_split] += 1
    for split, use in (("train", "training"), ("validation", "validation")):
        if not num_documents[split]:
            raise DataError(
                f"{source.name}: no text is left for {use} of {source.describe_size()}, without empty "
                f"and repeated ones{progress.describe_skipped()}; add text"
            )
    hashes = " ".join(hash_files(folder).values())
    fingerprint = hashlib.sha256(hashes.encode()).hexdigest()
    return {"num_documents": num_documents, "num_divided": num_divided, "fingerprint": fingerprint}


def _usable(source: Source, progress: Progress) -> Iterator[tuple[Split, str, bytes]]:
    """Split, name and cleaned content of the documents that are text, not empty and not repeated."""
    digests = set()
    for split in SPLITS if source.held_out is None else SPLITS[:1]:
        for name, raw in source.items(split):
            progress.advance()
            try:
                if isinstance(raw, DataError):
                    raise raw
                content = clean_text(raw)
            except DataError as error:
                progress.skip(name, error)
                continue
            digest = hashlib.sha256(content).digest()
            if content and digest not in digests:
                digests.add(digest)
                yield split, name, content


def held_out_bytes(sizes: Sequence[int], *, held_out: float) -> int:
    """Bytes to hold out in whole documents; 0 if either split would have fewer than 8 on average.

    `sizes` are the bytes of each document.
    """
    # With 8 documents expected on the smaller side, a side is empty in one of e**8 = 3,000 corpora.
    if len(sizes) * min(held_out, 1 - held_out) < 8:
        return 0
    return round(sum(sizes) * held_out)


def divide(name: str, content: bytes, *, held_out: float, max_bytes: int) -> dict[Split, bytes]:
    """Training and held-out part of a document.

    A document of up to `max_bytes`, see `held_out_bytes`, is held out if its name hashes below `held_out`, so
    that it keeps its split when others are added or removed. The last `held_out` of a longer one is held out;
    the cut never divides a UTF-8 character, and a document too short to be cut is training text.
    """
    if len(content) <= max_bytes:
        return {"validation" if hash_fraction(name) < held_out else "train": content}
    cut = len(content) - round(len(content) * held_out)
    while 0 < cut < len(content) and content[cut] & 0xC0 == 0x80:  # inside a UTF-8 character
        cut -= 1
    if cut in (0, len(content)):
        return {"train": content}
    return {"train": content[:cut], "validation": content[cut:]}
