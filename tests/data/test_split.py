"""Which text is held out."""

import pytest

from data.split import hash_fraction, held_out_bytes, split_by_name, split_by_tail


def documents(count: int) -> list[tuple[str, bytes]]:
    return [(f"folder/{index}.txt", f"text {index}".encode()) for index in range(count)]


def test_the_hash_of_a_name_is_the_same_on_every_machine():
    # printf 'a/b.txt' | sha256sum: 5550000d3b1cf1ff...
    assert hash_fraction("a/b.txt") == 0x5550000D3B1CF1FF / 2**64


def test_about_the_asked_fraction_of_documents_is_held_out():
    splits = [split for split, _ in split_by_name(documents(2_000), held_out=0.1, max_bytes=10_000)]
    assert 150 < splits.count("validation") < 250  # 200 expected, standard deviation 13


def test_a_document_keeps_its_side_when_others_come_or_go():
    few, many = documents(50), documents(90)
    many_sides = {
        content: split for split, content in split_by_name(reversed(many), held_out=0.3, max_bytes=10_000)
    }
    for split, content in split_by_name(few, held_out=0.3, max_bytes=10_000):
        assert many_sides[content] == split


@pytest.mark.parametrize(
    ("count", "held_out", "enough"),
    [(159, 0.05, False), (160, 0.05, True), (15, 0.5, False), (16, 0.5, True), (20, 0.95, False)],
)
def test_whole_documents_are_held_out_when_eight_are_expected_on_either_side(count, held_out, enough):
    assert (held_out_bytes(documents(count), held_out=held_out) is not None) is enough


def test_the_share_is_the_held_out_fraction_of_all_bytes():
    assert held_out_bytes([("a", b"x" * size) for size in range(160)], held_out=0.05) == 636  # 12,720 bytes


def test_a_document_longer_than_all_that_is_held_out_is_split_by_its_tail():
    name = next(name for name, _ in documents(1_000) if hash_fraction(name) < 0.2)
    assert list(split_by_name([(name, b"01234")], held_out=0.2, max_bytes=4)) == [
        ("train", b"0123"),
        ("validation", b"4"),
    ]
    assert list(split_by_name([(name, b"0123")], held_out=0.2, max_bytes=4)) == [("validation", b"0123")]


def test_the_tail_of_each_document_is_held_out():
    parts = list(split_by_tail([("a", b"0123456789"), ("b", b"abcde")], held_out=0.2))
    assert parts == [("train", b"01234567"), ("validation", b"89"), ("train", b"abcd"), ("validation", b"e")]


@pytest.mark.parametrize("text", ["ééééééé", "你好你好你", "🙂🙂🙂🙂🙂", "a🙂b你cé"])
@pytest.mark.parametrize("held_out", [0.05, 0.3, 0.5, 0.71, 0.95])
def test_the_cut_divides_no_character_and_loses_no_byte(text, held_out):
    parts = [content for _, content in split_by_tail([("a", text.encode())], held_out=held_out)]
    assert "".join(part.decode("utf-8") for part in parts) == text


@pytest.mark.parametrize("text", ["x", "你"])
def test_a_document_too_short_to_cut_is_training_text(text):
    assert list(split_by_tail([("a", text.encode())], held_out=0.95)) == [("train", text.encode())]
