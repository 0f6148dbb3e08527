"""Documents from files."""

import os
import re
import sysconfig
from pathlib import Path

import pytest

from data.config import PythonStdlibConfig, TextFilesConfig
from data.text_sources import files_source
from system.errors import DataError


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(path) -> list[str]:
    return [name for name, _ in files_source(TextFilesConfig(path=str(path))).items("train")]


@pytest.fixture
def folder(tmp_path):
    files = {"b.txt": b"bee", "a.md": b"ay", "deep/er/c.txt": b"sea", ".hidden.txt": b"no"}
    return write(tmp_path / "texts", files)


def test_documents_have_relative_names_in_sorted_order(folder):
    source = files_source(TextFilesConfig(path=str(folder)))
    assert source.num_items == 3
    for _ in range(2):  # they can be read again
        assert list(source.items("train")) == [("a.md", b"ay"), ("b.txt", b"bee"), ("deep/er/c.txt", b"sea")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["b.txt"]),
        ("**/*.txt", ["b.txt", "deep/er/c.txt"]),
        ("deep/**", ["er/c.txt"]),
        ("**", ["a.md", "b.txt", "deep/er/c.txt"]),
        ("**/e?/**/*", ["deep/er/c.txt"]),
        (".h*", [".hidden.txt"]),
        ("[a-b].*", ["a.md", "b.txt"]),
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
    for path, place in (("nowhere", "nowhere"), ("nowhere/*.txt", "nowhere"), ("*.rst", "")):
        problem = f": there is no {folder / place};" if place else f" in {folder};"
        message = re.escape(f"data.path={folder / path} matches no file{problem}")
        with pytest.raises(DataError, match=rf"^{message} check the path.*\*\*.*data.path=NEW"):
            names(folder / path)


def test_linked_directory_is_read_once_by_its_own_path(folder, tmp_path):
    write(tmp_path / "elsewhere", {"d.txt": b"dee", "back/e.txt": b"e"})
    for link, target in (
        ("a link", folder / "deep"),
        ("loop", folder),
        ("deep/up", folder),
        ("more", tmp_path / "elsewhere"),
        ("more again", tmp_path / "elsewhere"),
    ):
        (folder / link).symlink_to(target)
    expected = ["a.md", "b.txt", "deep/er/c.txt", "more/back/e.txt", "more/d.txt"]
    assert names(folder) == expected
    assert names(folder / "**/*.txt") == expected[1:]


def test_what_cannot_be_read_is_an_invalid_document(folder, monkeypatch):
    os.mkfifo(folder / "pipe.txt")
    (folder / "null.txt").symlink_to("/dev/zero")
    (folder / "gone.txt").symlink_to("nowhere")
    scandir = os.scandir

    def fail(path):  # root can list a directory of any mode
        if path == folder / "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    documents = dict(files_source(TextFilesConfig(path=str(folder))).items("train"))
    assert {name: str(error) for name, error in documents.items() if isinstance(error, DataError)} == {
        "deep": f"cannot read {folder / 'deep'}: Is a directory",
        "gone.txt": f"cannot read {folder / 'gone.txt'}: No such file or directory",
        "null.txt": f"cannot read {folder / 'null.txt'}: not a regular file",
        "pipe.txt": f"cannot read {folder / 'pipe.txt'}: not a regular file",
    }
    assert len(documents) == 6


def test_names_are_compared_in_one_unicode_form(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path, {f"{composed}.txt": b"1", f"{decomposed}.txt": b"2", f"{decomposed}/a.txt": b"3"})
    expected = [f"{composed}.txt", f"{composed}.txt", f"{composed}/a.txt"]
    assert sorted(names(tmp_path)) == sorted(expected)
    for pattern in (f"{composed}*", f"{decomposed}*"):
        assert names(tmp_path / pattern) == expected[:2]


def test_standard_library_excludes_its_tests_and_tools(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    included = ["abc.py", "json/decoder.py", "testing.py"]
    excluded = ["json/tests/x.py", "test/x.py", "site-packages/x.py", "config-3.13-linux/x.py"]
    write(tmp_path, dict.fromkeys([*included, *excluded, "README.txt"], b"pass"))
    assert [name for name, _ in files_source(PythonStdlibConfig()).items("train")] == included
