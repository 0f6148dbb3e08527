"""Tokenizers: bytes, and byte-pair encoding in a Hugging Face `tokenizer.json`."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers

from data.tokenizer import BYTES, SEPARATORS, JsonTokenizer, TextStream, label, read_tokenizer, train_bpe
from system.errors import DataError

TEXT = Path(json.__file__).read_text()
HARD_TEXTS = {
    "empty": "",
    "every plane": "".join(chr(plane << 16 | 0x41) for plane in range(17)) + "\U0001f600\U000e0001\U0010fffd",
    "line ends": "a\r\nb\rc\n\n\r\r\n",
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f \U0001f3f3\ufe0f\u200d\U0001f308",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202e\u0645\u0631\u062d\u0628\u0627\u202c",
    "NUL": "a\0b\0\0",
    "special tokens": "<|endoftext|> <s> </s>",
    "spaces": "  a \t\u00a0\u3000 b   ",
    "combining": "e\u0301 \u1112\u1161\u11ab",
    "replacement": "\ufffd\ufffda\ufffd",
}


@pytest.fixture(scope="module")
def bpe():
    return train_bpe([TEXT], vocab_size=600)


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer as of Llama 2: a space before each text, and bytes for unknown characters."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {piece: 259 + index for index, piece in enumerate("\u2581abc")} | {"\u2581a": 263, "bc": 264}
    merges = [("\u2581", "a"), ("b", "c")]
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(spaces)
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.enable_truncation(2)
    return JsonTokenizer(tokenizer.to_str())


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS)
def test_decode_inverts_encode(bpe, sentencepiece, text):
    for tokenizer in (BYTES, bpe, sentencepiece):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == tokenizer.dtype
        assert tokenizer.decode([-1, *tokens, tokenizer.vocab_size]) == text  # without those out of range
        is_bytes_with_nul = tokenizer is BYTES and "\0" in text  # the corpus refuses NUL
        assert is_bytes_with_nul or tokenizer.separator not in tokens
    for tokenizer in (BYTES, bpe):
        pieces = b"".join(tokenizer.token_bytes(token) for token in tokenizer.encode(text.replace("\0", "")))
        assert pieces == text.replace("\0", "").encode()


@pytest.mark.slow
def test_ten_megabytes_on_one_line_are_encoded_losslessly(bpe):
    text = TEXT.replace("\n", " ") * (10_000_000 // len(TEXT) + 1)
    for long_text in (text, "x" * 10_000_000):
        assert bpe.decode(bpe.encode(long_text)) == long_text


def test_parts_of_a_document_are_decoded_to_the_document(bpe, sentencepiece):
    parts = ["a b", "c a", " a\n", "\n b"]
    for tokenizer in (bpe, sentencepiece):
        tokens = tokenizer.encode_parts([(part, part == "a b") for part in parts])
        assert tokenizer.decode(np.concatenate(tokens)) == "".join(parts)


def test_every_end_token_of_a_model_stops_a_row(bpe, sentencepiece):
    assert [tokenizer.stop_tokens for tokenizer in (BYTES, bpe, sentencepiece)] == [(0,), (0,), (1, 2)]
    assert sentencepiece.separator == 1


def test_bytes_are_tokens():
    assert BYTES.encode("naïve").tobytes() == "naïve".encode()
    assert BYTES.encode(b"caf\xe9".decode("utf-8", errors="surrogateescape")).tobytes() == b"caf\xe9"
    assert BYTES.decode(BYTES.encode("ab你")[:-1]) == "ab\ufffd"


def test_arrays_have_the_smallest_dtype_that_holds_the_vocabulary(bpe):
    assert (BYTES.dtype, bpe.dtype) == (np.uint8, np.uint16)
    content = json.loads(bpe.json)
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 70_000, "content": "<|far|>"})
    content["model"]["vocab"]["<|far|>"] = 70_000
    assert JsonTokenizer(json.dumps(content)).dtype == np.uint32


def test_the_trained_file_is_that_of_the_library(bpe):
    theirs = tokenizers.Tokenizer.from_str(bpe.json)
    assert theirs.encode(TEXT).ids == bpe.encode(TEXT).tolist()
    assert theirs.id_to_token(bpe.separator) == "<|endoftext|>"
    assert bpe.vocab_size == 600 and len(bpe.encode(TEXT)) < len(TEXT) / 2


def test_a_short_text_has_a_smaller_vocabulary():
    assert train_bpe(["abcabc abd"], vocab_size=300).vocab_size == 257 + 2  # ab, abc: pairs that occur twice


@pytest.mark.parametrize("text", [*HARD_TEXTS.values(), " a b", "\U0001f600" * 3])
def test_a_stream_gives_whole_characters_and_the_same_text(bpe, sentencepiece, text):
    for tokenizer in (BYTES, bpe, sentencepiece):
        stream = TextStream(tokenizer)
        parts = [stream.add([token]) for token in tokenizer.encode(text)]
        assert "".join(parts) + stream.add([], is_last=True) == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in part for part in parts)


def test_a_stream_ends_with_a_replacement_character_where_a_character_is_incomplete():
    stream = TextStream(BYTES)
    assert [stream.add([byte]) for byte in "a你".encode()[:-1]] == ["a", "", ""]
    assert stream.add([], is_last=True) == "\ufffd"


def test_labels_are_readable(bpe, sentencepiece):
    assert [label(BYTES, token) for token in b" a\n\xe4"] == ["\N{OPEN BOX}", "a", "\\n", "\\xe4"]
    assert [label(bpe, token) for token in bpe.encode(" the\n")] == ["\N{OPEN BOX}the", "\\n"]
    assert label(bpe, bpe.separator) == label(BYTES, 0) == "\N{BULLET}"
    assert [label(sentencepiece, token) for token in sentencepiece.encode("a\n")] == ["\N{OPEN BOX}a", "\\n"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "cannot read the tokenizer .*can't decode byte"),
        (b"{", "is not a tokenizer.json that can be loaded"),
        (
            b'{"model": {"merges": ["a \xc3\xa9"], "continuing_subword_prefix": "#"}}',
            "continuing_subword_prefix",
        ),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "has no special token"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*No such file"):
        read_tokenizer(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_tokenizer(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_the_separator_is_the_token_before_documents(bpe):
    content = json.loads(bpe.json)
    token = content["added_tokens"][0]
    content["added_tokens"] = [token | {"id": 600 + i, "content": text} for i, text in enumerate(SEPARATORS)]
    assert JsonTokenizer(json.dumps(content)).separator == 600
