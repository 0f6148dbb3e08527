"""Held-out bytes as targets that all have the same number of tokens before them, for evaluation by window."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.batches import IGNORED_TARGET
from data.tokens import SEPARATOR
from system.errors import DataError


@dataclass(frozen=True)
class Targets:
    """Bytes to predict, in blocks of up to `stride` consecutive bytes of one document.

    Attributes:
        tokens: (num_tokens,) integers that contain the targets, in memory or memory-mapped.
        ends: (blocks,) index in `tokens` of the last target of each block.
        counts: (blocks,) number of targets in each block.
        documents: (blocks,) number of the document of each block.
        stride: number of targets in a full block.
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
    """Targets that every window up to `window` can predict, in blocks of `stride`.

    These are the bytes with at least `window` tokens of their document before them, counting its leading
    separator. The choice does not depend on the stride.

    Args:
        tokens: (num_tokens,) integers, documents between separators; the last separator may be missing.
        window: length of the longest window.
        stride: at most the length of the shortest window.
        max_targets: chooses fewer targets, in whole blocks that are evenly spread; at least `stride`.

    Raises:
        DataError: if no document is as long as `window`.
    """
    starts = np.flatnonzero(tokens == SEPARATOR)
    stops = np.append(starts[1:], len(tokens))
    longest = int(max(stops - starts, default=1)) - 1
    if longest < window:
        raise DataError(
            f"a window of {window:,} tokens is longer than any held-out document; the longest has "
            f"{longest:,} bytes. Use shorter windows or longer documents"
        )
    blocks = [
        (first, min(first + stride, stop) - 1, document)
        for document, (start, stop) in enumerate(zip(starts, stops, strict=True))
        for first in range(start + window, stop, stride)
    ]
    firsts, ends, documents = np.array(blocks, np.int64).T  # (blocks,) each
    chosen = np.arange(len(ends))
    if max_targets is not None and max_targets // stride < len(chosen):
        chosen = np.arange(max_targets // stride) * len(chosen) // (max_targets // stride)
    return Targets(tokens, ends[chosen], (ends - firsts + 1)[chosen], documents[chosen], stride)


class WindowBatches(Sequence):
    """Sequence of inputs (batch, window) int32 and targets (batch, stride) int32.

    The inputs of a row are the `window` tokens before its last target, so that each target is predicted from
    `window - stride + 1` to `window` tokens. The targets are at the end of their row; places before them, and
    rows that fill up the last batch, have the target -1.

    Args:
        targets: result of `choose_targets` for this window or a longer one; row r is its block r.
        window: number of input tokens, at least the stride.
        batch_size: number of rows.
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
        ends_and_counts = zip(self._targets.ends[blocks], self._targets.counts[blocks], strict=True)
        for row, (end, count) in enumerate(ends_and_counts):
            inputs[row] = tokens[end - self.window : end]
            targets[row, stride - count :] = tokens[end - count + 1 : end + 1]
        return inputs, targets
