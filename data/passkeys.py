"""Passkey retrieval: texts that state a key at some depth of filler text and ask for it at their end.

The task of Mohtashami & Jaggi 2023 (arXiv 2305.16300), which arXiv 2306.15595 uses to measure how far back a
model attends, shortened to fit into 256 bytes. Every text is a pure function of (seed, index).

The digits of a key are distinct: a model copies the key by attending to the digit that it generated last.
"""

import hashlib

import numpy as np

from data.batches import ALL_ROWS, IGNORED_TARGET, Arrays, random_generator
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
TRAINING_STREAM, HELD_OUT_STREAM = 3, 4  # of `random_generator`
PARTS = "The key: ", ". ", "What was the key? The key: "


class Passkeys:
    """Texts with keys of `digits` digits, for rows of `length` tokens; DataError if that is too short."""

    def __init__(self, length: int, digits: int, tokenizer: Tokenizer = BYTES):
        self.length, self.digits, self.tokenizer = length, digits, tokenizer
        # Before and after the key in its statement, and the question.
        self.parts = [tokenizer.encode(part) for part in PARTS]
        self.sentences = [tokenizer.encode(sentence) for sentence in FILLER]
        # The last token: some tokenizers put a space before a text.
        self.digit_tokens = np.array([tokenizer.encode(digit)[-1] for digit in "0123456789"])
        self.smallest = sum(map(len, self.parts)) + 2 * digits  # tokens of a text without filler
        if length < self.smallest:
            raise DataError(
                f"a context of {length:,} tokens is too short for a key of {digits} digits and its "
                f"question, which take {self.smallest}. Use a longer context or fewer digits"
            )

    def text(self, draw: np.random.Generator, size: int, *, depth: float | None = None) -> np.ndarray:
        """Text of `size` tokens, at least `smallest`, that ends with the key.

        The key is stated at the start of a sentence nearest to `depth`, uniform in [0, 1) by default.
        """
        key = self.digit_tokens[draw.permutation(10)[: self.digits]]
        drawn_depth = draw.random()  # always drawn: key and filler are the same at every depth
        room = size - self.smallest
        filler = self.filler(draw, room)
        starts = np.cumsum([0, *map(len, filler)])
        place = int(np.abs(starts - room * (drawn_depth if depth is None else depth)).argmin())
        before, after, question = self.parts
        return np.concatenate([*filler[:place], before, key, after, *filler[place:], question, key])

    def filler(self, draw: np.random.Generator, size: int) -> list[np.ndarray]:
        """Sentences of `size` tokens in total; the start of the first may be cut off."""
        sentences = []
        while size > 0:
            sentences.append(self.sentences[draw.integers(len(FILLER))][-size:])
            size -= len(sentences[-1])
        return sentences[::-1]

    def held_out_text(self, index: int, *, depth: float | None = None) -> np.ndarray:
        """(length,) tokens of held-out text `index`: the same for every run, and no run trains on it."""
        return self.text(random_generator(0, index, stream=HELD_OUT_STREAM), self.length, depth=depth)

    def held_out(self, indices: np.ndarray, depths: np.ndarray | None = None) -> Arrays:
        """(batch, length) int32 inputs and targets of held-out texts, with keys at (batch,) `depths`."""
        pairs = zip(indices, [None] * len(indices) if depths is None else depths, strict=True)
        return self._inputs_and_targets([[self.held_out_text(int(i), depth=depth)] for i, depth in pairs])

    def training_batch(
        self, index: int, *, batch_size: int, texts: int, seed: int, rows: slice = ALL_ROWS
    ) -> Arrays:
        """(rows, length) int32 inputs and targets of batch `index`; each row holds 1 to `texts` texts.

        Without short texts, whose answers are at shorter distances, a model begins to copy much later.
        """
        packed = []
        for number in range(index * batch_size, (index + 1) * batch_size)[rows]:
            draw = random_generator(seed, number, stream=TRAINING_STREAM)
            packed.append([self.text(draw, size) for size in self._text_sizes(draw, texts)])
        return self._inputs_and_targets(packed)

    def fingerprint(self) -> str:
        """SHA-256 over a few held-out texts, which changes when their wording changes."""
        inputs, _ = self.held_out(np.arange(16))
        return hashlib.sha256(inputs.tobytes()).hexdigest()

    def _text_sizes(self, draw: np.random.Generator, texts: int) -> np.ndarray:
        """Tokens of each text of a row, which they fill together with a separator before each."""
        smallest = self.smallest + 1
        count = draw.integers(1, min(texts, (self.length + 1) // smallest) + 1)
        spare = self.length + 1 - count * smallest
        cuts = np.sort(draw.integers(spare + 1, size=count - 1))
        return np.diff([0, *cuts, spare]) + smallest - 1

    def _inputs_and_targets(self, rows: list[list[np.ndarray]]) -> Arrays:
        """Inputs and targets of rows of texts, each after a separator; their answers are targets."""
        parts = [[np.append(self.tokenizer.separator, text) for text in row] for row in rows]
        is_answer = [
            np.concatenate([np.arange(len(part)) >= len(part) - self.digits for part in row]) for row in parts
        ]
        tokens = np.stack([np.concatenate(row) for row in parts]).astype(np.int32)  # (batch, length + 1)
        return tokens[:, :-1], np.where(is_answer, tokens, IGNORED_TARGET)[:, 1:]  # (batch, length) each
