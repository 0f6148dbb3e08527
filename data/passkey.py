"""Passkey retrieval: texts that state a key at some depth of filler, and at their end ask for it.

The task of Mohtashami & Jaggi 2023 (arXiv 2305.16300), by which arXiv 2306.15595 measures how far back a
model looks, in few enough words for 256 bytes. Every text is a function of (seed, index).

The digits of a key differ, so that each is followed by one other: a model copies the key by looking for the
last digit that it wrote.
"""

import hashlib

import numpy as np

from data.batches import IGNORED_TARGET, EvaluationBatches, batch_dataset
from data.order import (
    ALL_ROWS,
    HELD_OUT_PASSKEY_STREAM,
    PASSKEY_STREAM,
    generator_of,
    number_of_rows,
)
from data.tokens import SEPARATOR, encode
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
STATEMENT, QUESTION = "The key: {}. ", "What was the key? The key: "
# The same texts are held out from every run.
HELD_OUT_SEED = 0
NUM_FINGERPRINTED = 16


def passkey_text(draw: np.random.Generator, *, size: int, digits: int, depth: float | None = None) -> str:
    """A text of `size` bytes that ends with the key.

    Args:
        size: at least `smallest_text(digits)`.
        depth: share of the filler before the sentence with the key, which stands at the nearest beginning of
            a sentence; uniform in [0, 1) when not given.
    """
    key = "".join(map(str, draw.permutation(10)[:digits]))
    drawn_depth = draw.random()  # drawn in any case: the key and the filler are the same at every depth
    room = size - smallest_text(digits)
    sentences = filler(draw, room)
    starts = np.cumsum([0, *map(len, sentences)])
    place = int(np.abs(starts - room * (drawn_depth if depth is None else depth)).argmin())
    return "".join([*sentences[:place], STATEMENT.format(key), *sentences[place:], QUESTION, key])


def filler(draw: np.random.Generator, size: int) -> list[str]:
    """Sentences of `size` bytes together; the first may lack its beginning."""
    sentences = []
    while size > 0:
        sentences.append(FILLER[draw.integers(len(FILLER))][-size:])
        size -= len(sentences[-1])
    return sentences[::-1]


def smallest_text(digits: int) -> int:
    """Bytes of a text without filler."""
    return len(STATEMENT.format("")) + len(QUESTION) + 2 * digits


def check_room(*, length: int, digits: int) -> None:
    """Raises DataError if a context of `length` tokens does not hold a key and its question."""
    needed = smallest_text(digits)
    if length < needed:
        raise DataError(
            f"a context of {length:,} tokens is too short for a key of {digits} digits and its question, "
            f"which take {needed}. Use a longer one, or fewer digits"
        )


def held_out_passkeys(
    indices: np.ndarray, depths: np.ndarray | None = None, *, length: int, digits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texts that no run trains on.

    Args:
        indices: (batch,) which.
        depths: (batch,) of their keys, see `passkey_text`.

    Returns:
        Inputs and targets, (batch, length) int32 each; only the digits of the answer are targets, at the end.
    """
    depths = [None] * len(indices) if depths is None else depths
    rows = [
        [held_out_text(int(index), length=length, digits=digits, depth=depth)]
        for index, depth in zip(indices, depths, strict=True)
    ]
    return inputs_and_targets(rows, digits=digits)


def held_out_text(index: int, *, length: int, digits: int, depth: float | None = None) -> str:
    """The text that fills a context of `length` tokens, up to the digit that is the last target."""
    draw = generator_of(HELD_OUT_SEED, index, stream=HELD_OUT_PASSKEY_STREAM)
    return passkey_text(draw, size=length, digits=digits, depth=depth)


def training_passkeys(
    index: int,
    *,
    batch_size: int,
    length: int,
    digits: int,
    texts: int,
    seed: int,
    rows: slice = ALL_ROWS,
) -> tuple[np.ndarray, np.ndarray]:
    """Batch `index` of an endless run, a pure function of its arguments: rows of 1 to `texts` texts.

    Several short texts in a row hold more answers, and nearer ones, without which a model takes much longer
    to begin to look back.

    Args:
        rows: of the batch that are wanted; each is what it is in the whole batch.

    Returns:
        Inputs and targets, (rows, length) int32 each; only the digits of the answers are targets.
    """
    packed = []
    for number in range(index * batch_size, (index + 1) * batch_size)[rows]:
        draw = generator_of(seed, number, stream=PASSKEY_STREAM)
        sizes = text_sizes(draw, length=length, digits=digits, texts=texts)
        packed.append([passkey_text(draw, size=size, digits=digits) for size in sizes])
    return inputs_and_targets(packed, digits=digits)


def text_sizes(draw: np.random.Generator, *, length: int, digits: int, texts: int) -> np.ndarray:
    """Bytes of each text of a row, which fill it together with the separator before each."""
    smallest = smallest_text(digits) + 1
    count = draw.integers(1, min(texts, (length + 1) // smallest) + 1)
    spare = length + 1 - count * smallest
    cuts = np.sort(draw.integers(spare + 1, size=count - 1))
    return np.diff([0, *cuts, spare]) + smallest - 1


def inputs_and_targets(rows: list[list[str]], *, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Of rows of texts, each behind a separator; targets are the last `digits` bytes of each text."""
    parts = [[np.append(SEPARATOR, encode(text)) for text in row] for row in rows]
    is_answer = [
        np.concatenate([np.arange(len(part)) >= len(part) - digits for part in row]) for row in parts
    ]
    tokens = np.stack([np.concatenate(row) for row in parts]).astype(np.int32)
    return tokens[:, :-1], np.where(is_answer, tokens, IGNORED_TARGET)[:, 1:]


def passkey_training_dataset(
    *,
    start_step: int,
    num_steps: int,
    batch_size: int,
    length: int,
    digits: int,
    texts: int,
    seed: int,
    rows: slice = ALL_ROWS,
):
    """The batches `start_step` to `num_steps - 1` of `training_passkeys` as a `tf.data.Dataset`."""

    def batch(index):
        return training_passkeys(
            index, batch_size=batch_size, length=length, digits=digits, texts=texts, seed=seed, rows=rows
        )

    shape = number_of_rows(batch_size, rows), length
    return batch_dataset(batch, start_step=start_step, num_steps=num_steps, shape=shape)


def passkey_evaluation_batches(
    num_examples: int,
    *,
    batch_size: int,
    length: int,
    digits: int,
    max_batches: int | None = None,
    rows: slice = ALL_ROWS,
) -> EvaluationBatches:
    """The first held-out texts, one a row; rows that fill up the last batch have no targets.

    Args:
        max_batches: with fewer batches than there are, texts evenly spread.
        rows: of each batch that are wanted.
    """
    shape = number_of_rows(batch_size, rows), length

    def load(items):
        inputs, targets = np.full(shape, SEPARATOR, np.int32), np.full(shape, IGNORED_TARGET, np.int32)
        if not len(items):
            return inputs, targets
        inputs[: len(items)], targets[: len(items)] = held_out_passkeys(items, length=length, digits=digits)
        return inputs, targets

    return EvaluationBatches(num_examples, load, batch_size=batch_size, max_batches=max_batches, rows=rows)


def fingerprint(*, length: int, digits: int) -> str:
    """SHA-256 over a few held-out texts: another one where their wording has changed."""
    inputs, _ = held_out_passkeys(np.arange(NUM_FINGERPRINTED), length=length, digits=digits)
    return hashlib.sha256(inputs.tobytes()).hexdigest()
