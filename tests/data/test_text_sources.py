"""Documents from JSON lines and Parquet files."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from data.config import JsonLinesConfig, ParquetConfig
from data.corpus import load_text
from data.text_sources import files_source
from system.errors import DataError

TEXTS = ["first text", "naïve 你好 \U0001f600", "two\nlines\r\nof text", "<|endoftext|>", "last"]


def write_lines(path, *values):
    """One line for each value: JSON, or the bytes themselves."""
    lines = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
    return path


def write_table(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def load(config_class, path, *, report=lambda line: None, **options):
    options = {"held_out": 0.2, "cache_dir": str(path.parent / "cache")} | options
    return load_text(config_class(path=str(path), **options), report=report)


def refusal(config_class, path, **options):
    with pytest.raises(DataError) as caught:
        load(config_class, path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_each_line_is_a_document_named_by_file_and_number(tmp_path, name):
    write_lines(tmp_path / name, *({"text": text, "id": 3} for text in TEXTS), b"", b"  ")
    write_lines(tmp_path / "b.jsonl", {"text": "other file"})
    source = files_source(JsonLinesConfig(path=str(tmp_path / "*")))
    for _ in range(2):  # they can be read again
        items = list(source.items("train"))
        assert items[:-1] == [(f"{name}:{n}", text.encode()) for n, text in enumerate(TEXTS, 1)]
        assert items[-1] == ("b.jsonl:1", b"other file")


def test_each_row_is_a_document_of_any_file(tmp_path):
    write_table(tmp_path / "a.parquet", body=TEXTS, id=list(range(5)))
    large = pyarrow.array(["other file"], pyarrow.large_string())
    write_table(tmp_path / "b.parquet", body=large, extra=[1.5])
    source = files_source(ParquetConfig(path=str(tmp_path / "*.parquet"), text_key="body"))
    items = list(source.items("train"))
    assert [content.decode() for _, content in items] == [*TEXTS, "other file"]
    assert [items[0][0], items[-1][0]] == ["a.parquet:1", "b.parquet:1"]


def test_change_of_file_or_key_rebuilds_the_cache(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "abcdefghij", "other": "klmnopqrst"})
    first = load(JsonLinesConfig, path)
    assert load(JsonLinesConfig, path, text_key="other").fingerprint != first.fingerprint
    write_lines(path, {"text": "abcdefghijk"})
    assert load(JsonLinesConfig, path).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "a.jsonl:2: not JSON: "),
        (b'{"text": "\xff"}', "a.jsonl:2: not JSON: "),
        (["text"], "a.jsonl:2: not an object with a text under 'text' (data.text_key)"),
        ({"text": 3}, "a.jsonl:2: not an object with a text under 'text' (data.text_key)"),
        (b'{"text": "ab\\ud800"}', "a.jsonl:2: not UTF-8 at byte 2"),
        ({"text": "a\0b"}, "a.jsonl:2: contains NUL at byte 1"),
    ],
)
def test_an_invalid_line_is_refused_or_skipped(tmp_path, line, message):
    path = write_lines(tmp_path / "a.jsonl", {"text": "good " * 9}, line, {"text": "fine " * 9})
    found = refusal(JsonLinesConfig, path)
    assert found.startswith(message)
    assert found.endswith("; fix or remove it, or set data.invalid=skip")
    lines = []
    corpus = load(JsonLinesConfig, path, invalid="skip", report=lines.append)
    assert "good" in bytes(corpus.train).decode() and "fine" in bytes(corpus.train).decode()
    assert lines[-1].startswith(f"skipped {message}")


def test_a_damaged_file_is_reported(tmp_path):
    path = write_lines(tmp_path / "a.jsonl.gz", *({"text": text * 50} for text in TEXTS))
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.jsonl.gz: Compressed file ended before" in refusal(JsonLinesConfig, path)
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no parquet")
    assert f"cannot read {path}: " in refusal(ParquetConfig, path)


def test_a_column_of_another_type_is_refused_with_the_choices(tmp_path):
    path = write_table(tmp_path / "a.parquet", text=[1, 2], body=["a", "b"])
    expected = f"a.parquet: data.text_key=text is int64, not a column of text; those of {path} are: body"
    assert refusal(ParquetConfig, path).startswith(expected)
    expected = "a.parquet: data.text_key=missing is no column, not a column of text"
    assert refusal(ParquetConfig, path, text_key="missing").startswith(expected)


def test_a_row_without_text_is_refused_or_skipped(tmp_path):
    path = write_table(tmp_path / "a.parquet", text=["good " * 9, None, "fine " * 9])
    assert refusal(ParquetConfig, path).startswith("a.parquet:2: no text, but null; fix or remove it")
    assert b"fine" in bytes(load(ParquetConfig, path, invalid="skip").train)
    valid = pyarrow.array(["abc", "def"])
    offsets, text = valid.buffers()[1], pyarrow.py_buffer(b"ab\xff" + b"def")
    write_table(path, text=pyarrow.StringArray.from_buffers(2, offsets, text))
    assert refusal(ParquetConfig, path).startswith("a.parquet:1: not UTF-8 at byte 2")
