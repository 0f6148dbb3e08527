"""Bytes as tokens, and the division of documents into splits."""

import numpy as np
import pytest

from data.corpus import held_out_bytes, split_by_name, split_by_tail
from data.sources import hash_fraction
from data.tokens import SEPARATOR, VOCAB_SIZE, clean_text, decode, encode


@pytest.mark.parametrize("text", ["", "plain", "naïve 你好 🙂", "line\nline\ttab"])
def test_decode_inverts_encode(text):
    tokens = encode(text)
    assert tokens.dtype == np.uint8
    assert tokens.tobytes() == text.encode()
    assert decode(tokens) == text
    assert decode(tokens.astype(np.int32)) == text


def test_text_never_encodes_to_the_separator():
    assert SEPARATOR not in encode("".join(map(chr, range(1, 0x3000))))
    assert SEPARATOR < VOCAB_SIZE


def test_decode_replaces_a_truncated_character():
    assert decode(encode("ab你")[:-1]) == "ab\ufffd"


def test_encode_restores_the_bytes_of_a_command_line():
    assert encode(b"caf\xe9".decode("utf-8", errors="surrogateescape")).tobytes() == b"caf\xe9"


@pytest.mark.parametrize("token", [-1, 256])
def test_decode_rejects_tokens_of_another_vocabulary(token):
    with pytest.raises(ValueError, match=r"range\(0, 256\)"):
        decode([65, token])


def test_line_ends_become_newlines():
    assert clean_text(b"a\r\nb\rc\nd\r\r\n") == b"a\nb\nc\nd\n\n"


def documents(count: int) -> list[tuple[str, bytes]]:
    return [(f"folder/{index}.txt", f"text {index}".encode()) for index in range(count)]


def test_hash_of_a_name_is_the_same_on_every_machine():
    # printf 'a/b.txt' | sha256sum: 5550000d3b1cf1ff...
    assert hash_fraction("a/b.txt") == 0x5550000D3B1CF1FF / 2**64


def test_split_by_name_holds_out_the_requested_fraction():
    splits = [split for split, _ in split_by_name(documents(2_000), held_out=0.1, max_bytes=10_000)]
    assert 150 < splits.count("validation") < 250  # 200 expected, standard deviation 13


def test_document_keeps_its_split_when_others_come_or_go():
    few, many = documents(50), documents(90)
    splits_of_many = {
        content: split for split, content in split_by_name(reversed(many), held_out=0.3, max_bytes=10_000)
    }
    for split, content in split_by_name(few, held_out=0.3, max_bytes=10_000):
        assert splits_of_many[content] == split


@pytest.mark.parametrize(
    ("count", "held_out", "is_enough"),
    [(159, 0.05, False), (160, 0.05, True), (15, 0.5, False), (16, 0.5, True), (20, 0.95, False)],
)
def test_whole_documents_are_held_out_if_eight_are_expected_in_either_split(count, held_out, is_enough):
    assert (held_out_bytes(documents(count), held_out=held_out) is not None) is is_enough


def test_held_out_bytes_are_the_fraction_of_all_bytes():
    assert held_out_bytes([("a", b"x" * size) for size in range(160)], held_out=0.05) == 636  # of 12,720


def test_document_longer_than_the_held_out_bytes_is_split_by_its_tail():
    name = next(name for name, _ in documents(1_000) if hash_fraction(name) < 0.2)
    long, short = (list(split_by_name([(name, b)], held_out=0.2, max_bytes=4)) for b in (b"01234", b"0123"))
    assert long == [("train", b"0123"), ("validation", b"4")]
    assert short == [("validation", b"0123")]


def test_split_by_tail_holds_out_the_end_of_each_document():
    parts = list(split_by_tail([("a", b"0123456789"), ("b", b"abcde")], held_out=0.2))
    assert parts == [("train", b"01234567"), ("validation", b"89"), ("train", b"abcd"), ("validation", b"e")]


@pytest.mark.parametrize("text", ["ééééééé", "你好你好你", "🙂🙂🙂🙂🙂", "a🙂b你cé"])
def test_split_by_tail_divides_no_character_and_loses_no_byte(text):
    for held_out in (0.05, 0.3, 0.5, 0.71, 0.95):
        parts = [content for _, content in split_by_tail([("a", text.encode())], held_out=held_out)]
        assert "".join(part.decode("utf-8") for part in parts) == text


@pytest.mark.parametrize("text", ["x", "你"])
def test_document_too_short_to_cut_is_training_text(text):
    assert list(split_by_tail([("a", text.encode())], held_out=0.95)) == [("train", text.encode())]
