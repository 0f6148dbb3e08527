"""Documents from files: the standard library of Python; text, JSON lines and Parquet files of the user."""

import glob
import gzip
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch, fnmatchcase
from pathlib import Path

from data.config import JsonLinesConfig, ParquetConfig, PythonStdlibConfig, TextFilesConfig
from data.sources import MOVED_HINT, InvalidItem, Source, Split, check_regular, file_state, read_file
from system.errors import DataError, reason
from system.files import walk_files
from system.text import printable

STDLIB_EXCLUDED = (
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*"),
)


def python_stdlib_source(config: PythonStdlibConfig) -> Source:
    """The `*.py` files of the running Python's standard library, without its tests and tools."""
    root = Path(sysconfig.get_paths()["stdlib"])

    def is_included(parts: list[str], is_directory: bool) -> bool:
        is_excluded = any(fnmatch(parts[-1], each) for each in STDLIB_EXCLUDED)
        return not is_excluded and (is_directory or parts[-1].endswith(".py"))

    return _file_source(config.source, root, walk_files(root, is_included), held_out=config.held_out)


def text_files_source(config: TextFilesConfig) -> Source:
    """The user's files in sorted order; raises DataError if `config.path` matches no file.

    The name of a document is its path relative to the directory, or to the part of the glob before the first
    wildcard.
    """
    root, files = find_files(config)
    name = f"{config.source} {config.path}"
    return _file_source(name, root, files, held_out=config.held_out, invalid=config.invalid)


def record_source(config: JsonLinesConfig | ParquetConfig) -> Source:
    """The objects on the lines, or the rows, of the user's files; a name is `file:number`, counted from 1.

    Raises:
        DataError: if `config.path` matches no file, or a Parquet file has no such column of text.
    """
    root, files = find_files(config)
    read, num_rows = read_json_lines, None
    if isinstance(config, ParquetConfig):
        read, num_rows = read_rows, sum(count_rows(path, config.text_key) for _, path in files)

    def documents(split: Split) -> Iterator[tuple[str, bytes | DataError]]:
        for name, path in files:
            for number, content in enumerate(read(path, config.text_key), 1):
                if content != b"":
                    yield f"{name}:{number}", content

    identity = {"root": str(root.absolute()), "files": [file_state(name, path) for name, path in files]}
    return Source(
        f"{config.source} {config.path}",
        identity | {"key": config.text_key, "invalid": config.invalid},
        num_rows,
        "document",
        documents,
        held_out=config.held_out,
        invalid=config.invalid,
    )


def read_json_lines(path: Path, key: str) -> Iterator[bytes | DataError]:
    """The text under `key` on each line; empty for an empty line. A damaged file ends with an error."""
    try:
        check_regular(path)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for line in file:
                yield text_of_line(line, key) if line.strip() else b""
    except (OSError, EOFError, zlib.error) as error:
        yield DataError(f"cannot read {printable(str(path))}: {reason(error)}")


def text_of_line(line: bytes, key: str) -> bytes | InvalidItem:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InvalidItem(f"not JSON: {reason(error)}")
    if not isinstance(value, dict):
        return InvalidItem(f"not an object, but {type(value).__name__}")
    if key not in value:
        keys = ", ".join(map(repr, list(value)[:5]))
        return InvalidItem(f"has no key {key!r}, only {keys or 'none'}; set data.text_key")
    if not isinstance(value[key], str):
        return InvalidItem(f"{key!r} is not text, but {type(value[key]).__name__}")
    try:
        return value[key].encode()
    except UnicodeEncodeError:
        return InvalidItem(f"{key!r} is not UTF-8: it has half of a surrogate pair")


def count_rows(path: Path, column: str) -> int:
    """Rows of a Parquet file; raises DataError unless it has a column of text with this name."""
    import pyarrow.parquet

    try:
        check_regular(path)
        with pyarrow.parquet.ParquetFile(path) as file:
            texts = [
                field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")
            ]
            if column in texts:
                return file.metadata.num_rows
            found = {field.name: str(field.type) for field in file.schema_arrow}.get(column, "no column")
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {printable(str(path))}: {reason(error)}") from error
    choices = f"choose one of {', '.join(texts)}" if texts else "it has none"
    raise DataError(
        f"data.text_key={column} is {found} in {printable(str(path))}, not a column of text; {choices}"
    )


def read_rows(path: Path, column: str) -> Iterator[bytes | DataError]:
    """The text of each row; a damaged file ends with an error."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1_000, columns=[column]):
                # As bytes: a string of Parquet may be invalid UTF-8.
                for value in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                    yield InvalidItem("is null") if value is None else value
    except (OSError, pyarrow.ArrowException) as error:
        yield DataError(f"cannot read {printable(str(path))}: {reason(error)}")


def find_files(
    config: TextFilesConfig | JsonLinesConfig | ParquetConfig,
) -> tuple[Path, list[tuple[str, Path]]]:
    """Directory that names are relative to, and name and path of each file.

    `config.path` is a file, a directory (all files below it) or a glob (`**` is any depth). Hidden files and
    folders are excluded unless the glob names their dot.

    Raises:
        DataError: if the path matches no file.
    """
    root, pattern = _root_and_pattern(config.path)
    files = walk_files(root, lambda parts, is_directory: _matches(parts, pattern, is_directory))
    if not root.is_dir() or not files:
        raise DataError(
            f"data.path={config.path} matches no file in {root.absolute()}; check the path, or use "
            f"a glob such as 'texts/**/*.txt' for files at any depth{MOVED_HINT}"
        )
    return root, files


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
