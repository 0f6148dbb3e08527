"""Documents from files."""

import os
import sysconfig
from pathlib import Path

import pytest

from data.config import PythonStdlibConfig, TextFilesConfig
from data.sources import python_stdlib_source, text_files_source
from system.errors import DataError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(path) -> list[str]:
    return [name for name, _ in text_files_source(TextFilesConfig(path=str(path))).documents()]


@pytest.fixture
def folder(tmp_path):
    files = {"b.txt": b"bee", "a.md": b"ay", "deep/er/c.txt": b"sea", "empty.txt": b"", ".hidden.txt": b"no"}
    return write(tmp_path / "texts", files)


def test_documents_are_named_by_their_relative_path_in_sorted_order(folder):
    source = text_files_source(TextFilesConfig(path=str(folder)))
    assert list(source.documents()) == [("a.md", b"ay"), ("b.txt", b"bee"), ("deep/er/c.txt", b"sea")]
    assert source.num_items == 3


def test_documents_can_be_read_again(folder):
    source = text_files_source(TextFilesConfig(path=str(folder)))
    assert list(source.documents()) == list(source.documents())


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
def test_a_path_is_a_file_a_directory_or_a_glob(folder, pattern, expected):
    assert names(folder / pattern) == expected


def test_a_name_with_glob_characters_is_taken_as_it_is(tmp_path):
    write(tmp_path, {"draft [1].txt": b"one", "set [2]/x.txt": b"two"})
    assert names(tmp_path / "draft [1].txt") == ["draft [1].txt"]
    assert names(tmp_path / "set [2]") == ["x.txt"]


def test_a_tilde_is_the_home_directory(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert names("~/*.md") == ["a.md"]


def test_a_path_relative_to_the_working_directory_is_found(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names("**/*.txt") == ["b.txt", "deep/er/c.txt"]


def test_a_file_name_that_is_not_utf8_gets_a_printable_name(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    assert names(tmp_path) == ["caf\\xe9.txt"]


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.txt"])
def test_a_missing_path_is_named(tmp_path, missing):
    with pytest.raises(DataError, match=r"data\.path=.*nowhere does not exist"):
        names(tmp_path / missing)


def test_a_glob_without_a_match_is_named(folder):
    with pytest.raises(DataError, match=r"data\.path=.*\*\.rst matches no file in .*texts; .*\*\*"):
        names(folder / "*.rst")


def test_only_empty_files_are_refused(tmp_path):
    write(tmp_path, {"a.txt": b"", "b.txt": b""})
    with pytest.raises(DataError, match="matches 2 files, all empty"):
        names(tmp_path)


def test_an_unreadable_file_is_named(folder, monkeypatch):
    readable = Path.read_bytes

    def read_bytes(path):
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied")
        return readable(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)  # root reads a file of any mode
    with pytest.raises(DataError, match=r"cannot read .*b\.txt: Permission denied"):
        names(folder)


def test_the_standard_library_is_read_without_its_tests_and_tools(tmp_path, monkeypatch):
    kept = ["abc.py", "json/decoder.py", "testing.py"]
    left_out = [
        "json/tests/x.py",
        "test/x.py",
        "idlelib/x.py",
        "site-packages/x.py",
        "config-3.13-linux/x.py",
    ]
    write(tmp_path, dict.fromkeys([*kept, *left_out, "README.txt"], b"pass"))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert [name for name, _ in python_stdlib_source(PythonStdlibConfig()).documents()] == kept


def test_a_python_without_source_files_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="no standard library source"):
        python_stdlib_source(PythonStdlibConfig())
