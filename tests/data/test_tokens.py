"""Bytes as tokens."""

import numpy as np
import pytest

from data.tokens import SEPARATOR, VOCAB_SIZE, InvalidText, clean_text, decode, encode


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


def test_decode_replaces_a_character_cut_in_half():
    assert decode(encode("ab你")[:-1]) == "ab\ufffd"


def test_encode_gives_back_the_bytes_of_a_command_line():
    assert encode(b"caf\xe9".decode("utf-8", errors="surrogateescape")).tobytes() == b"caf\xe9"


@pytest.mark.parametrize("token", [-1, 256])
def test_decode_refuses_tokens_of_another_vocabulary(token):
    with pytest.raises(ValueError, match=r"0\.\.255"):
        decode([65, token])


def test_line_ends_become_newlines():
    assert clean_text(b"a\r\nb\rc\nd\r\r\n") == b"a\nb\nc\nd\n\n"


@pytest.mark.parametrize(
    ("raw", "reason"), [(b"ab\xff", "not UTF-8 at byte 2"), (b"abc\0", "contains NUL at byte 3")]
)
def test_bytes_that_are_no_text_are_refused_with_the_place(raw, reason):
    with pytest.raises(InvalidText, match=f"^{reason}$"):
        clean_text(raw)
