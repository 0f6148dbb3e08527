"""Held-out targets for evaluation by context window, and their batches."""

from dataclasses import dataclass

import numpy as np

from data.batches import IGNORED_TARGET, EvaluationBatches
from system.errors import DataError


@dataclass(frozen=True)
class Targets:
    """Tokens to predict, in blocks of up to `stride` consecutive tokens of one document."""

    tokens: np.ndarray  # (num_tokens,)
    ends: np.ndarray  # (blocks,) index in `tokens` of the last target of each block
    counts: np.ndarray  # (blocks,) number of targets in each block
    documents: np.ndarray  # (blocks,) number of the document of each block
    stride: int  # number of targets in a full block

    def __len__(self) -> int:
        return len(self.ends)


def choose_targets(
    tokens: np.ndarray, *, separator: int, window: int, stride: int, max_targets: int | None = None
) -> Targets:
    """Targets that every window up to `window` can predict, in blocks of `stride`.

    These are the tokens with at least `window` tokens of their document before them, counting its leading
    separator. The choice does not depend on the stride.

    Args:
        tokens: (num_tokens,) integers, documents between `separator` tokens; the last one may be missing.
        window: length of the longest window; `stride` is at most that of the shortest.
        max_targets: chooses fewer targets, in whole blocks that are evenly spread; at least `stride`.
    """
    starts = np.flatnonzero(tokens == separator)
    stops = np.append(starts[1:], len(tokens))
    longest = int(max(stops - starts, default=1)) - 1
    if longest < window:
        raise DataError(
            f"a window of {window:,} tokens is longer than any held-out document; the longest has "
            f"{longest:,} tokens. Use shorter windows or longer documents"
        )
    blocks = [
        (first, min(first + stride, stop) - 1, document)
        for document, (start, stop) in enumerate(zip(starts, stops, strict=True))
        for first in range(start + window, stop, stride)
    ]
    firsts, ends, documents = np.array(blocks, np.int64).T  # (blocks,) each
    count = len(ends) if max_targets is None else min(len(ends), max_targets // stride)
    chosen = np.arange(count) * len(ends) // count
    return Targets(tokens, ends[chosen], (ends - firsts + 1)[chosen], documents[chosen], stride)


def window_batches(targets: Targets, *, window: int, batch_size: int) -> EvaluationBatches:
    """Batches of inputs (batch, window) and targets (batch, stride), int32; row r contains block r.

    The inputs are the `window` tokens before the last target, so that each target is predicted from `window -
    stride + 1` to `window` tokens. The targets are at the end of their row, after others of -1.
    """

    def load(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends, counts = targets.ends[blocks, None], targets.counts[blocks, None]  # (batch, 1) each
        inputs = targets.tokens[ends + np.arange(-window, 0)].astype(np.int32)  # (batch, window)
        places = ends + np.arange(1 - targets.stride, 1)  # (batch, stride)
        answers = targets.tokens[places].astype(np.int32)  # (batch, stride)
        return inputs, np.where(places > ends - counts, answers, IGNORED_TARGET)

    return EvaluationBatches(len(targets), load, batch_size=batch_size)
