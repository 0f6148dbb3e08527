"""Corpora: from documents on disk to token arrays in the cache, and the split of the documents."""

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import FileLock

import system.files
from data import sources
from data.config import PythonStdlibConfig, TextFilesConfig
from data.corpus import check_length, divide, held_out_bytes, load_text
from data.sources import cache_folder, hash_fraction
from system.errors import DataError


def documents_of(tokens: np.ndarray) -> list[bytes]:
    """The documents between the separators."""
    stored = tokens.tobytes()
    assert stored[:1] == stored[-1:] == b"\0"
    return stored[1:-1].split(b"\0")


@pytest.fixture
def folder(tmp_path):
    """200 distinct documents of different lengths."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for index in range(200):
        (folder / f"{index:03}.txt").write_text(f"document {index} " + "x" * index)
    return folder


def load(folder, *, report=lambda message: None, **options):
    options = {"path": str(folder), "cache_dir": str(folder.parent / "cache"), "held_out": 0.2} | options
    return load_text(TextFilesConfig(**options), report=report)


def messages_of(folder, **options) -> list[str]:
    messages = []
    load(folder, report=messages.append, **options)
    return messages


def test_every_document_is_in_one_split(folder):
    corpus = load(folder)
    train, validation = documents_of(corpus.train), documents_of(corpus.validation)
    assert corpus.train.dtype == corpus.validation.dtype == np.uint8
    assert sorted(train + validation) == sorted(path.read_bytes() for path in folder.iterdir())
    assert 20 < len(validation) < 60  # 40 expected, standard deviation 6
    sizes = (f"{len(docs)} documents, {sum(map(len, docs)):,} bytes" for docs in (train, validation))
    assert corpus.description == "text_files {}: {} for training; {} held out".format(folder, *sizes)


def test_held_out_text_never_repeats_training_text(folder):
    for index in range(100):  # a copy under a name that may hash to the other split
        (folder / f"copy {index}.txt").write_bytes((folder / f"{index:03}.txt").read_bytes())
        (folder / f"crlf {index}.txt").write_bytes(b"a\r\nb" if index % 2 else b"a\nb")
    corpus = load(folder)
    documents = documents_of(corpus.train) + documents_of(corpus.validation)
    assert len(documents) == len(set(documents)) == 201


def test_one_file_is_split_by_its_tail(tmp_path):
    path = tmp_path / "one.txt"
    path.write_bytes(b"0123456789\r\n" * 10)
    corpus = load(path, held_out=0.1)
    assert documents_of(corpus.train)[0] + documents_of(corpus.validation)[0] == b"0123456789\n" * 10
    assert len(documents_of(corpus.validation)[0]) == 11
    size = "99 bytes for training; 1 document, 11 bytes held out (of 1 document only the last 10 %)"
    assert corpus.description.endswith(size)


def test_fingerprint_depends_on_the_text_alone(folder, tmp_path):
    first = load(folder)
    moved = folder.rename(tmp_path / "moved")
    assert load(moved, cache_dir=str(tmp_path / "other cache")).fingerprint == first.fingerprint
    hashes = [hashlib.sha256(tokens.tobytes()).hexdigest() for tokens in (first.train, first.validation)]
    assert first.fingerprint == hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    (moved / "007.txt").write_text("another text")
    assert load(moved).fingerprint != first.fingerprint


def test_documents_are_read_again_after_a_change_only(folder):
    path = folder / "003.txt"
    first, second = load(folder), load(folder)
    assert isinstance(second.train, np.memmap)
    np.testing.assert_array_equal(first.train, second.train)
    assert (first.fingerprint, first.description) == (second.fingerprint, second.description)
    assert messages_of(folder) == []
    for change in (
        lambda: path.write_text("changed text of another size"),
        lambda: os.utime(path, ns=(1, 1)),
        lambda: (folder / "new.txt").write_text("new"),
        path.unlink,
    ):
        change()
        assert messages_of(folder)[0].startswith("reading ")
        assert messages_of(folder) == []
    for options in ({"held_out": 0.3}, {"invalid": "error"}):
        assert messages_of(folder, **options)[0].startswith("reading ")


def change_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def names_in(cache):
    """Sorted names in a cache directory without lock files."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_damaged_cache_is_rebuilt(folder):
    corpus = load(folder)
    expected = corpus.train.tobytes()
    entry = Path(corpus.train.filename).parent
    for damage, name in ((change_bit, "train.bin"), (change_bit, "meta.json"), (os.remove, "validation.bin")):
        damage(entry / name)
        again = load(folder)
        assert again.fingerprint == corpus.fingerprint
        assert again.train.tobytes() == expected
        assert names_in(entry.parent) == [entry.name]


def test_damaged_cache_is_kept_until_its_replacement_is_on_disk(folder, monkeypatch):
    entry = Path(load(folder).train.filename).parent
    change_bit(entry / "train.bin")
    damaged = (entry / "train.bin").read_bytes()
    monkeypatch.setattr(system.files, "sync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="No space"):
        load(folder)
    assert (entry / "train.bin").read_bytes() == damaged
    assert names_in(entry.parent) == [entry.name]


def test_one_of_several_threads_or_processes_builds_an_entry(tmp_path):
    source, builds = sources.Source("texts", {}, 1, "file", items=lambda split: iter(())), []
    waiting = threading.Event()

    def build(path, progress):
        (path / "train.bin").write_bytes(b"text")
        assert waiting.wait(30)
        builds.append(path)
        return {"number": len(builds)}

    def report(message):
        if message == "waiting for another process, which is reading texts":
            waiting.set()

    def load_entry(_):
        return sources.load_or_build(tmp_path / "entry", source, build, report=report)

    with ThreadPoolExecutor(4) as pool:
        assert [meta["number"] for meta in pool.map(load_entry, range(4))] == [1] * 4
    assert len(builds) == 1
    assert names_in(tmp_path) == ["entry"]


def test_what_killed_processes_left_is_removed_at_the_next_load(folder, tmp_path):
    cache = tmp_path / "cache"
    for name in (".text_files-killed.partial", ".images-running.partial"):
        (cache / name).mkdir(parents=True)
    with FileLock(cache / ".images-running.lock"):
        load(folder)  # builds an entry
        assert names_in(cache)[0] == ".images-running.partial"
        assert len(names_in(cache)) == 2
    load(folder)  # reads it
    assert len(names_in(cache)) == 1


def test_cut_file_is_an_error_and_not_the_end_of_the_process(folder):
    corpus = load(folder)
    whole = corpus.train.copy()
    assert corpus.train[[3, 5]].tolist() == whole[[3, 5]].tolist()
    os.truncate(corpus.train.filename, 2)
    for part in (slice(5), [3, 5]):
        with pytest.raises(
            DataError, match=r"train\.bin was cut during this run; repeat the command to rebuild"
        ):
            corpus.train[part]
    assert load(folder).train.tolist() == whole.tolist()


def test_crash_or_full_disk_leaves_no_entry(folder, monkeypatch):
    for error, message in (
        (KeyboardInterrupt(), None),
        (OSError(28, "No space left on device"), r"cannot write .*No space .*; set data\.cache_dir="),
    ):
        monkeypatch.setattr(sources, "hash_files", Mock(side_effect=error))
        with pytest.raises((KeyboardInterrupt, DataError), match=message):
            load(folder)
        assert names_in(folder.parent / "cache") == []


def test_default_cache_is_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(None, "texts", {}).parent == tmp_path / "xdg" / "rope-transformers-tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(None, "texts", {}).parent == tmp_path / "home" / ".cache" / "rope-transformers-tf"


def test_invalid_files_are_skipped_and_named_at_every_load(folder, monkeypatch):
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "nul.txt").write_bytes(b"a\0b")
    skipped = ["skipped latin.txt: not UTF-8 at byte 3", "skipped nul.txt: contains NUL at byte 1"]
    assert messages_of(folder) == ["reading 202 files of text_files " + str(folder), *skipped]
    assert messages_of(folder) == skipped
    for index in range(21):
        (folder / f"a {index:02}.txt").write_bytes(b"\xff%d" % index)
    messages = messages_of(folder)[1:]
    assert len(messages) == 21
    assert messages[-1] == "skipped 3 more files"


def test_corpus_without_valid_text_raises(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    message = r"no text is left for the train split of 1 file, .* \(1 skipped, first: a\.txt: not"
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.txt")


def test_corpus_shorter_than_a_window_raises(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    corpus = load(tmp_path / "a.txt", held_out=0.1)
    assert (len(corpus.train), len(corpus.validation)) == (92, 12)
    check_length(corpus, 11)
    with pytest.raises(DataError, match=r"validation split has 12 tokens but one window needs 13 "):
        check_length(corpus, 12)
    with pytest.raises(DataError, match=r"train split has 92 tokens but one window needs 1,001"):
        check_length(corpus, 1_000)


def test_standard_library_is_a_corpus_of_python(tmp_path):
    corpus = load_text(PythonStdlibConfig(cache_dir=str(tmp_path)), report=lambda message: None)
    train, validation = documents_of(corpus.train), documents_of(corpus.validation)
    assert Path(json.__file__).read_bytes() in train + validation
    assert 5e6 < len(corpus.train) < 5e7
    assert 0.005 < len(validation) / len(train + validation) < 0.15
    assert not set(train) & set(validation)


def test_hash_of_a_name_is_the_same_on_every_machine():
    # printf 'a/b.txt' | sha256sum: 5550000d3b1cf1ff...
    assert hash_fraction("a/b.txt") == 0x5550000D3B1CF1FF / 2**64


def test_whole_documents_are_held_out_if_eight_are_expected_in_either_split():
    for count, share, size in ((159, 0.05, 0), (160, 0.05, 80), (15, 0.5, 0), (16, 0.5, 80), (20, 0.95, 0)):
        assert held_out_bytes([10] * count, held_out=share) == size


def test_document_longer_than_the_held_out_bytes_is_divided():
    name = next(f"{index}.txt" for index in range(1_000) if hash_fraction(f"{index}.txt") < 0.2)
    assert divide(name, b"0123", held_out=0.2, max_bytes=4) == {"validation": b"0123"}
    assert divide(name, b"01234", held_out=0.2, max_bytes=4) == {"train": b"0123", "validation": b"4"}
    assert divide("a", "你".encode(), held_out=0.95, max_bytes=0) == {"train": "你".encode()}  # too short


@pytest.mark.parametrize("text", ["ééééééé", "a🙂b你cé🙂"])
def test_cut_divides_no_character_and_loses_no_byte(text):
    for held_out in (0.05, 0.3, 0.5, 0.71, 0.95):
        parts = divide("a", text.encode(), held_out=held_out, max_bytes=0)
        assert "".join(part.decode("utf-8") for part in parts.values()) == text
