"""Tokenizers: UTF-8 bytes, and a Hugging Face `tokenizer.json`, which byte-pair encoding can be trained to.

The library `tokenizers` is imported in functions: a run on bytes does not need it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from system.errors import DataError, reason

FILE_NAME = "tokenizer.json"
TRAINED_SEPARATOR = "<|endoftext|>"
MIN_FREQUENCY = 2  # of a pair of tokens that becomes one
# Special tokens that can separate documents, by preference: a model has seen them before each document.
SEPARATORS = ("<s>", "<|begin_of_text|>", "<bos>", TRAINED_SEPARATOR, "</s>", "<|end_of_text|>", "<eos>")
SPACE_SIGN = "\N{LOWER ONE EIGHTH BLOCK}"  # a space in tokens of SentencePiece


class ByteTokenizer:
    """Bytes as tokens: 0 separates documents, 1 to 255 are the bytes of UTF-8 text.

    Every tokenizer has these attributes and methods:
        vocab_size: tokens are integers from 0 to `vocab_size - 1`.
        separator: token before and after each document; no text is encoded to it.
        stop_tokens: special tokens that may follow a document, the separator among them.
        special: text of each special token; none for bytes.
        prefix: tokens that the model expects before a prompt, such as that of `<s>`.
        json: content of its `tokenizer.json`; None for bytes.
        dtype: smallest unsigned integer that holds every token.
        sha256: identifies the tokenizer.
    """

    vocab_size, separator, stop_tokens, special, prefix, json = 256, 0, (0,), {}, [], None
    dtype = np.dtype(np.uint8)
    sha256 = hashlib.sha256(bytes(range(vocab_size))).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """(length,) tokens of a text; surrogate escapes of a command line are restored."""
        return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), np.uint8).copy()

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the tokens; incomplete characters become U+FFFD, and tokens out of range are left out."""
        return bytes(token for token in map(int, tokens) if 0 <= token < 256).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that a token adds to a text; none for the separator."""
        return b"" if token == self.separator else bytes([token])


BYTES = ByteTokenizer()


class JsonTokenizer:
    """Tokenizer of the library `tokenizers`, from the content of the `tokenizer.json` `name`."""

    def __init__(self, content: str, *, name: str = FILE_NAME):
        import tokenizers

        try:
            values = json.loads(content)
            model = values.get("model") or {}
            if "merges" in model and model.get("continuing_subword_prefix"):
                # On some merges the library aborts the process.
                raise ValueError("BPE with a continuing_subword_prefix is not supported")
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises no class of its own
            raise DataError(f"{name} is not a tokenizer.json that can be loaded: {reason(error)}") from error
        # Otherwise the text "<s>" in a document would become a separator.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special = {id: token.content for id, token in added.items() if token.special}
        ids = {content: id for id, content in self.special.items()}
        self.stop_tokens = tuple(ids[content] for content in SEPARATORS if content in ids)
        if not self.stop_tokens:
            raise DataError(f"{name} has no special token to separate documents: {', '.join(SEPARATORS)}")
        self.separator = self.stop_tokens[0]
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.prefix = self._tokenizer.encode("", add_special_tokens=True).ids
        self.json = content
        self.sha256 = hashlib.sha256(content.encode()).hexdigest()
        self.dtype = np.min_scalar_type(self.vocab_size - 1)
        is_of_bytes = '"ByteLevel"' in json.dumps(values.get("decoder"))
        self._byte_of = byte_alphabet() if is_of_bytes else {}
        # Some tokenizers put a space before each text. In a part of a document, NUL is put there and removed.
        self._guard = next(filter(self._joins_parts, ("", "\0")), "")

    def _joins_parts(self, guard: str) -> bool:
        """Whether parts of a document are decoded to the document if all but the first begin with `guard`."""
        tokens = self.encode(guard + "a")[len(self.encode(guard)) :]
        return self.decode([*self.encode("a"), *tokens]) == "aa"

    def encode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[np.ndarray]:
        """Tokens of each part of a document, with whether it is the first, computed on all processors."""
        size = len(self.encode(self._guard))
        tokens = self.encode_batch([text if is_first else self._guard + text for text, is_first in parts])
        return [row if is_first else row[size:] for row, (_, is_first) in zip(tokens, parts, strict=True)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Tokens of each text, computed on all processors."""
        texts = [text.encode(errors="surrogateescape").decode(errors="replace") for text in texts]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, self.dtype) for encoding in encodings]

    def decode(self, tokens: Iterable[int]) -> str:
        valid = [token for token in map(int, tokens) if 0 <= token < self.vocab_size]
        return self._tokenizer.decode(valid, skip_special_tokens=True)

    def token_bytes(self, token: int) -> bytes:
        piece = self._tokenizer.id_to_token(int(token))
        if piece is None or token in self.special:
            return b""
        if self._byte_of and set(piece) <= self._byte_of.keys():
            return bytes(map(self._byte_of.get, piece))
        if match := re.fullmatch("<0x([0-9A-F]{2})>", piece):
            return bytes.fromhex(match[1])
        return piece.replace(SPACE_SIGN, " ").encode()


Tokenizer = ByteTokenizer | JsonTokenizer


def byte_alphabet() -> dict[str, int]:
    """Byte of each character in tokens of byte-level encodings, as defined by GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def read_tokenizer(path: str | os.PathLike) -> JsonTokenizer:
    """Tokenizer of a `tokenizer.json`, or of a directory with one; raises DataError if it cannot be used."""
    path = Path(path, FILE_NAME) if os.path.isdir(path) else Path(path)
    try:
        content = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the tokenizer {path}: {reason(error)}") from error
    return JsonTokenizer(content, name=str(path))


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> JsonTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909; bytes as in GPT-2).

    A short text gives fewer than `vocab_size` tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[TRAINED_SEPARATOR],
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return JsonTokenizer(tokenizer.to_str())


def label(tokenizer: Tokenizer, token: int) -> str:
    """Short printable text of one token for a plot or table: spaces are visible, other bytes escaped."""
    text = tokenizer.token_bytes(token).decode(errors="backslashreplace")
    return repr(text)[1:-1].replace("\\\\x", "\\x").replace(" ", "\N{OPEN BOX}") or "\N{BULLET}"


class TextStream:
    """Text of tokens that arrive one by one, in whole characters."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        # Tokens of the last text returned, and those after: decoding may drop a space from the first token.
        self._tokens, self._num_returned = [], 0

    def add(self, tokens: Iterable[int], *, is_last: bool = False) -> str:
        """Text that the tokens complete; with `is_last` incomplete characters too, as U+FFFD."""
        self._tokens += map(int, tokens)
        returned = self._tokenizer.decode(self._tokens[: self._num_returned])
        text = self._tokenizer.decode(self._tokens)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and not is_last:
            return ""
        del self._tokens[: self._num_returned]
        self._num_returned = len(self._tokens)
        return text[len(returned) :]
