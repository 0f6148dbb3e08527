"""Held-out bytes as targets, each behind the same number of tokens: what an evaluation by window reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.batches import IGNORED_TARGET
from data.tokens import SEPARATOR
from system.errors import DataError


@dataclass(frozen=True)
class Targets:
    """Bytes to predict, in blocks of up to `stride` consecutive ones of a document.

    Attributes:
        tokens: (num_tokens,) integers that they are part of, in memory or on disk.
        ends: (blocks,) index of the last target of each block.
        counts: (blocks,) how many targets it has.
        documents: (blocks,) number of its document.
        stride: targets of a full block.
    """

    tokens: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    documents: np.ndarray
    stride: int

    def __len__(self) -> int:
        return len(self.ends)


def choose_targets(
    tokens: np.ndarray, *, window: int, stride: int, max_targets: int | None = None
) -> Targets:
    """The targets that every window up to `window` can predict, in blocks of `stride`.

    They are the bytes of each document with at least `window` tokens of it before them, among which the
    separator that it starts with counts. Which they are does not depend on the stride.

    Args:
        tokens: (num_tokens,) integers, documents between separators; the last one may lack its separator.
        window: the longest window.
        stride: at most the shortest window.
        max_targets: with fewer targets than there are, whole blocks evenly spread over all of them; at least
            `stride`.

    Raises:
        DataError: if no document is as long as `window`.
    """
    bounds = np.flatnonzero(tokens == SEPARATOR)
    starts, stops = bounds, np.append(bounds[1:], len(tokens))
    longest = int(max(stops - starts, default=1)) - 1
    if longest < window:
        raise DataError(
            f"a window of {window:,} tokens is longer than any held-out document; the longest has "
            f"{longest:,} bytes. Use shorter windows, or longer documents"
        )
    blocks = [
        (first, min(first + stride, stop) - 1, document)
        for document, (start, stop) in enumerate(zip(starts, stops, strict=True))
        for first in range(start + window, stop, stride)
    ]
    firsts, ends, documents = np.array(blocks, np.int64).T
    kept = np.arange(len(ends))
    if max_targets is not None and max_targets // stride < len(kept):
        kept = np.arange(max_targets // stride) * len(kept) // (max_targets // stride)
    return Targets(tokens, ends[kept], (ends - firsts + 1)[kept], documents[kept], stride)


class WindowBatches(Sequence):
    """A sequence of (inputs, targets), (batch_size, window) and (batch_size, stride) int32.

    A row's inputs are the `window` tokens before its last target, so that a target is predicted from
    `window - stride + 1` to `window` of them. Its targets stand at the end of the row; places before them,
    and rows that fill up the last batch, have the target -1.

    Args:
        targets: of `choose_targets` with this window or a longer one; row r is its block r.
        window: tokens of input, at least the stride.
        batch_size: rows.
    """

    def __init__(self, targets: Targets, *, window: int, batch_size: int):
        if window < targets.stride:
            raise ValueError(f"a window must hold the stride of {targets.stride} targets, got {window}.")
        self._targets, self.window, self.batch_size = targets, window, batch_size

    def __len__(self) -> int:
        return -(-len(self._targets) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        blocks = slice(index * self.batch_size, (index + 1) * self.batch_size)
        tokens, stride = self._targets.tokens, self._targets.stride
        inputs = np.full((self.batch_size, self.window), SEPARATOR, np.int32)
        targets = np.full((self.batch_size, stride), IGNORED_TARGET, np.int32)
        for row, (end, count) in enumerate(
            zip(self._targets.ends[blocks], self._targets.counts[blocks], strict=True)
        ):
            inputs[row] = tokens[end - self.window : end]
            targets[row, stride - count :] = tokens[end - count + 1 : end + 1]
        return inputs, targets
