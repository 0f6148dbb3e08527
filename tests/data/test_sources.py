"""Documents from files."""

import os
import re
import sysconfig
from pathlib import Path

import pytest

from data.config import PythonStdlibConfig, TextFilesConfig
from data.corpus import python_stdlib_source, text_files_source
from system.errors import DataError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(path) -> list[str]:
    return [name for name, _ in text_files_source(TextFilesConfig(path=str(path))).items("train")]


@pytest.fixture
def folder(tmp_path):
    files = {"b.txt": b"bee", "a.md": b"ay", "deep/er/c.txt": b"sea", "empty.txt": b"", ".hidden.txt": b"no"}
    return write(tmp_path / "texts", files)


def test_documents_have_relative_names_in_sorted_order(folder):
    source = text_files_source(TextFilesConfig(path=str(folder)))
    assert source.num_items == 3
    for _ in range(2):  # they can be read again
        assert list(source.items("train")) == [("a.md", b"ay"), ("b.txt", b"bee"), ("deep/er/c.txt", b"sea")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["b.txt"]),
        ("**/*.txt", ["b.txt", "deep/er/c.txt"]),
        ("deep/**", ["er/c.txt"]),
        ("b.txt", ["b.txt"]),
        ("deep", ["er/c.txt"]),
    ],
)
def test_path_is_a_file_a_directory_or_a_glob(folder, pattern, expected):
    assert names(folder / pattern) == expected


def test_path_may_be_relative_or_begin_with_a_tilde(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names("**/*.txt") == ["b.txt", "deep/er/c.txt"]
    monkeypatch.setenv("HOME", str(folder))
    assert names("~/*.md") == ["a.md"]


def test_existing_path_with_glob_characters_is_literal(tmp_path):
    write(tmp_path, {"draft [1].txt": b"one", "set [2]/x.txt": b"two"})
    assert names(tmp_path / "draft [1].txt") == ["draft [1].txt"]
    assert names(tmp_path / "set [2]") == ["x.txt"]


def test_file_name_that_is_not_utf8_becomes_printable(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    assert names(tmp_path) == ["caf\\xe9.txt"]


def test_path_without_text_is_named(folder):
    for path in ("nowhere", "nowhere/*.txt", "*.rst", "empty.txt"):
        message = re.escape(f"data.path={folder / path} matches no file with text in ")
        with pytest.raises(DataError, match=rf"^{message}.*texts.*; check the path, .* '.*\*\*"):
            names(folder / path)


def test_unreadable_file_is_named(folder, monkeypatch):
    read_bytes = Path.read_bytes

    def fail(path):
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)  # root can read a file of any mode
    with pytest.raises(DataError, match=r"cannot read .*b\.txt: Permission denied"):
        names(folder)


def test_standard_library_excludes_its_tests_and_tools(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    included = ["abc.py", "json/decoder.py", "testing.py"]
    excluded = [
        "json/tests/x.py",
        "test/x.py",
        "idlelib/x.py",
        "site-packages/x.py",
        "config-3.13-linux/x.py",
    ]
    write(tmp_path, dict.fromkeys([*included, *excluded, "README.txt"], b"pass"))
    assert [name for name, _ in python_stdlib_source(PythonStdlibConfig()).items("train")] == included
