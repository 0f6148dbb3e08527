"""Passkey retrieval: texts that state a key at some depth of filler text and ask for it at their end.

The task of Mohtashami & Jaggi 2023 (arXiv 2305.16300), which arXiv 2306.15595 uses to measure how far back a
model attends, shortened to fit into 256 bytes. Every text is a pure function of (seed, index).

The digits of a key are distinct: a model copies the key by attending to the digit that it generated last.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data.batches import ALL_ROWS, HELD_OUT_PASSKEY_STREAM, IGNORED_TARGET, PASSKEY_STREAM, random_generator
from data.tokenizer import BYTES, Tokenizer
from system.errors import DataError

FILLER = (
    "Rain falls. ",
    "We walk on. ",
    "A dog barks. ",
    "A boat comes in. ",
    "The road is long. ",
    "The lake is still. ",
    "Birds sing at dawn. ",
    "Snow lies on the hill. ",
)


class Pieces(NamedTuple):
    """Tokens of the parts of a text; each digit is one token."""

    filler: list[np.ndarray]
    opening: np.ndarray
    closing: np.ndarray
    question: np.ndarray
    digits: np.ndarray  # (10,)


@lru_cache
def encode_pieces(tokenizer: Tokenizer) -> Pieces:
    """Tokens of the statement `The key: {}. `, the question and the filler."""
    filler = [tokenizer.encode(sentence) for sentence in FILLER]
    opening, closing = tokenizer.encode("The key: "), tokenizer.encode(". ")
    question = tokenizer.encode("What was the key? The key: ")
    # The last token: some tokenizers put a space before a text.
    return Pieces(
        filler, opening, closing, question, np.array([tokenizer.encode(d)[-1] for d in "0123456789"])
    )


def passkey_text(
    draw: np.random.Generator,
    *,
    size: int,
    digits: int,
    depth: float | None = None,
    tokenizer: Tokenizer = BYTES,
) -> np.ndarray:
    """Text of `size` tokens, at least `smallest_text(digits)`, that ends with the key.

    `depth` is the fraction of the filler before the statement of the key, which is moved to the nearest start
    of a sentence; uniform in [0, 1) by default.
    """
    pieces = encode_pieces(tokenizer)
    key = pieces.digits[draw.permutation(10)[:digits]]
    drawn_depth = draw.random()  # always drawn: key and filler are the same at every depth
    room = size - smallest_text(digits, tokenizer)
    sentences = filler(draw, room, pieces.filler)
    starts = np.cumsum([0, *map(len, sentences)])
    place = int(np.abs(starts - room * (drawn_depth if depth is None else depth)).argmin())
    statement = [pieces.opening, key, pieces.closing]
    return np.concatenate([*sentences[:place], *statement, *sentences[place:], pieces.question, key])


def filler(draw: np.random.Generator, size: int, choices: list[np.ndarray]) -> list[np.ndarray]:
    """Sentences of `size` tokens in total; the start of the first may be cut off."""
    sentences = []
    while size > 0:
        sentences.append(choices[draw.integers(len(choices))][-size:])
        size -= len(sentences[-1])
    return sentences[::-1]


def smallest_text(digits: int, tokenizer: Tokenizer = BYTES) -> int:
    """Number of tokens of a text without filler."""
    pieces = encode_pieces(tokenizer)
    return sum(map(len, (pieces.opening, pieces.closing, pieces.question))) + 2 * digits


def check_room(*, length: int, digits: int, tokenizer: Tokenizer = BYTES) -> None:
    """Raises DataError if a context of `length` tokens is too short for a key and its question."""
    needed = smallest_text(digits, tokenizer)
    if length < needed:
        raise DataError(
            f"a context of {length:,} tokens is too short for a key of {digits} digits and its question, "
            f"which take {needed}. Use a longer context or fewer digits"
        )


def held_out_text(
    index: int, *, length: int, digits: int, depth: float | None = None, tokenizer: Tokenizer = BYTES
) -> np.ndarray:
    """Held-out text `index`, (length,) tokens, which is the same for every run and which no run trains on."""
    draw = random_generator(0, index, stream=HELD_OUT_PASSKEY_STREAM)
    return passkey_text(draw, size=length, digits=digits, depth=depth, tokenizer=tokenizer)


def held_out_passkeys(
    indices: np.ndarray,
    depths: np.ndarray | None = None,
    *,
    length: int,
    digits: int,
    tokenizer: Tokenizer = BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Batch of the held-out texts `indices`, (batch,), with keys at `depths`, (batch,).

    Returns:
        Inputs and targets, (batch, length) int32 each; only the digits at the end are targets.
    """
    depths = [None] * len(indices) if depths is None else depths
    texts = [
        held_out_text(int(index), length=length, digits=digits, depth=depth, tokenizer=tokenizer)
        for index, depth in zip(indices, depths, strict=True)
    ]
    return _inputs_and_targets([[text] for text in texts], digits=digits, separator=tokenizer.separator)


def training_passkeys(
    index: int,
    *,
    batch_size: int,
    length: int,
    digits: int,
    texts: int,
    seed: int,
    rows: slice = ALL_ROWS,
    tokenizer: Tokenizer = BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """Batch `index` of an endless run; each row holds 1 to `texts` texts.

    Several short texts in a row hold more answers at shorter distances, without which a model takes much
    longer to begin to copy. Inputs and targets are (rows, length) int32 each; only the digits of the answers
    are targets.
    """
    packed = []
    for number in range(index * batch_size, (index + 1) * batch_size)[rows]:
        draw = random_generator(seed, number, stream=PASSKEY_STREAM)
        smallest = smallest_text(digits, tokenizer)
        sizes = _text_sizes(draw, length=length, smallest=smallest, texts=texts)
        packed.append([passkey_text(draw, size=n, digits=digits, tokenizer=tokenizer) for n in sizes])
    return _inputs_and_targets(packed, digits=digits, separator=tokenizer.separator)


def fingerprint(*, length: int, digits: int, tokenizer: Tokenizer = BYTES) -> str:
    """SHA-256 over a few held-out texts, which changes when their wording changes."""
    inputs, _ = held_out_passkeys(np.arange(16), length=length, digits=digits, tokenizer=tokenizer)
    return hashlib.sha256(inputs.tobytes()).hexdigest()


def _text_sizes(draw: np.random.Generator, *, length: int, smallest: int, texts: int) -> np.ndarray:
    """Tokens of each text of a row, which they fill together with a separator before each."""
    smallest += 1
    count = draw.integers(1, min(texts, (length + 1) // smallest) + 1)
    spare = length + 1 - count * smallest
    cuts = np.sort(draw.integers(spare + 1, size=count - 1))
    return np.diff([0, *cuts, spare]) + smallest - 1


def _inputs_and_targets(
    rows: list[list[np.ndarray]], *, digits: int, separator: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of rows of texts, each after a separator; their last `digits` tokens are targets."""
    parts = [[np.append(separator, text) for text in row] for row in rows]
    is_answer = [
        np.concatenate([np.arange(len(part)) >= len(part) - digits for part in row]) for row in parts
    ]
    tokens = np.stack([np.concatenate(row) for row in parts]).astype(np.int32)  # (batch, length + 1)
    return tokens[:, :-1], np.where(is_answer, tokens, IGNORED_TARGET)[:, 1:]  # (batch, length) each
