"""Bytes as tokens."""

import numpy as np
import pytest

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


def test_truncated_characters_are_replaced_and_bytes_of_a_command_line_restored():
    assert decode(encode("ab你")[:-1]) == "ab\ufffd"
    assert encode(b"caf\xe9".decode("utf-8", errors="surrogateescape")).tobytes() == b"caf\xe9"


def test_decode_rejects_tokens_of_another_vocabulary():
    for token in (-1, 256):
        with pytest.raises(ValueError, match=r"range\(0, 256\)"):
            decode([65, token])


def test_line_ends_become_newlines_and_a_byte_order_mark_is_removed():
    assert clean_text("\ufeffa\ufeff".encode()) == "a\ufeff".encode()
    assert clean_text(b"a\r\nb\rc\nd\r\r\n") == b"a\nb\nc\nd\n\n"
