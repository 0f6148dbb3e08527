"""Documents from files: the standard library of Python; text, JSON lines and Parquet files of the user."""

import glob
import gzip
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch, fnmatchcase
from functools import partial
from pathlib import Path

from data.config import PythonStdlibConfig, TextFilesConfig
from data.sources import MOVED_HINT, Source, Split, check_regular, file_state, read_file
from system.errors import DataError, reason
from system.files import walk_files
from system.text import printable

STDLIB_EXCLUDED = (
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("site-packages", "dist-packages", "lib-dynload", "config-*"),
)


def files_source(config: PythonStdlibConfig | TextFilesConfig) -> Source:
    """Documents in files, in sorted order.

    Those of `python_stdlib` are the `*.py` files of the running Python's standard library, without its tests
    and tools. Otherwise, `config.path` is a file, a directory (all files below it) or a glob (`**` is any
    depth); hidden files and folders are excluded unless the glob names their dot. The name of a document is
    the path of its file relative to the directory, or to the part of the glob before the first wildcard, and
    `:number` of its line or row. Raises DataError if the path matches no file.
    """
    if isinstance(config, PythonStdlibConfig):
        name, root, is_included = config.source, Path(sysconfig.get_paths()["stdlib"]), _is_of_stdlib
    else:
        root, pattern = _root_and_pattern(config.path)
        name, is_included = f"{config.source} {config.path}", partial(_matches, pattern=pattern)
    files = walk_files(root, is_included)
    if not root.is_dir() or not files:
        problem = "matches no file in" if root.exists() else "matches no file: there is no"
        raise DataError(
            f"data.path={config.path} {problem} {root.absolute()}; check the path, or use "
            f"a glob such as 'texts/**/*.txt' for files at any depth{MOVED_HINT}"
        )
    read_texts = {"json_lines": read_lines, "parquet": read_rows}.get(config.source)
    key, invalid = getattr(config, "text_key", ""), getattr(config, "invalid", "skip")

    def documents(split: Split) -> Iterator[tuple[str, bytes | DataError]]:
        for name, path in files:
            try:
                if read_texts is None:
                    yield name, read_file(path)
                    continue
                check_regular(path)
                for number, text in enumerate(read_texts(path, key), 1):
                    if text != b"":
                        yield f"{name}:{number}", text
            except DataError as error:
                yield name, error
            # Those of Arrow are subclasses, too.
            except (OSError, EOFError, ValueError, NotImplementedError, zlib.error) as error:
                yield name, DataError(f"cannot read {printable(str(path))}: {reason(error)}")

    states = [file_state(name, path) for name, path in files]
    return Source(
        name,
        {"root": str(root.absolute()), "files": states, "invalid": invalid, "key": key},
        len(files) if read_texts is None else None,
        "file" if read_texts is None else "document",
        documents,
        held_out=config.held_out,
        invalid=invalid,
    )


def read_lines(path: Path, key: str) -> Iterator[bytes | DataError]:
    """The text under `key` of the JSON object on each line; empty for an empty line."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        for line in file:
            try:
                value = json.loads(line) if line.strip() else {key: ""}
                yield value[key].encode(errors="surrogatepass")
            except (ValueError, RecursionError) as error:
                yield DataError(f"not JSON: {reason(error)}")
            except (TypeError, KeyError, AttributeError):
                yield DataError(f"not an object with a text under {key!r} (data.text_key)")


def read_rows(path: Path, key: str) -> Iterator[bytes | DataError]:
    """The text of each row of a Parquet file in the column `key`."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        types = {field.name: str(field.type) for field in file.schema_arrow}
        texts = [name for name, kind in types.items() if kind in ("string", "large_string")]
        if key not in texts:
            raise DataError(
                f"data.text_key={key} is {types.get(key, 'no column')}, not a column of text; "
                f"those of {printable(str(path))} are: {', '.join(texts) or 'none'}"
            )
        for batch in file.iter_batches(1_000, columns=[key]):
            # As bytes: a string of Parquet may be invalid UTF-8.
            for value in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                yield DataError("no text, but null") if value is None else value


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


def _is_of_stdlib(parts: list[str], is_directory: bool) -> bool:
    """Whether a file is a source of the standard library, or a file below a directory may be one."""
    is_excluded = any(fnmatch(parts[-1], each) for each in STDLIB_EXCLUDED)
    return not is_excluded and (is_directory or parts[-1].endswith(".py"))


def _matches(parts: list[str], is_directory: bool, *, pattern: list[str]) -> bool:
    """Whether a file matches the glob, or a file below a directory may match it."""
    if not parts:
        return bool(pattern) if is_directory else set(pattern) <= {"**"}
    if not pattern:
        return False
    if pattern[0] == "**" and _matches(parts, is_directory, pattern=pattern[1:]):
        return True
    if parts[0].startswith(".") and not pattern[0].startswith("."):
        return False
    if pattern[0] == "**":
        return _matches(parts[1:], is_directory, pattern=pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], is_directory, pattern=pattern[1:])
