"""Windows of a token array as batches: NumPy functions of (seed, index), and a tf.data pipeline over them."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from data.order import ALL_ROWS, PHASE_STREAM, batch_items, epoch_generator, number_of_rows, spread_items
from data.tokens import SEPARATOR

# A target that does not count in the loss.
IGNORED_TARGET = -1


def windows_per_epoch(num_tokens: int, length: int) -> int:
    """Windows that one epoch draws: as many as fit behind any phase, the same number in every epoch.

    Raises:
        ValueError: if not one window of `length + 1` tokens fits.
    """
    if num_tokens < length + 1:
        raise ValueError(
            f"a window of length {length} needs {length + 1} tokens, got {num_tokens}. "
            "Give more tokens or a smaller length."
        )
    return max(1, (num_tokens - length) // length)


def training_batch(
    tokens: np.ndarray, index: int, *, batch_size: int, length: int, seed: int, rows: slice = ALL_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Batch `index` of an endless run: a pure function of its arguments.

    An epoch divides the tokens into windows `length` apart, from a random phase on, and visits each once in a
    random order. Phase and order depend on (seed, epoch).

    Args:
        tokens: (num_tokens,) integers, in memory or on disk.
        index: 0 for the first batch of a run.
        rows: those that are wanted; each is what it is in the whole batch.

    Returns:
        Inputs and targets, (rows, length) int32 each; a target is the token after its input.

    Raises:
        ValueError: if `tokens` is shorter than `length + 1`.
    """
    num_windows = windows_per_epoch(len(tokens), length)
    items = batch_items(index, batch_size=batch_size, num_items=num_windows, seed=seed)
    windows, epochs = (part[rows] for part in items)
    # From `length` to 2 * length - 1 of them: every alignment occurs, and every token has its turn.
    num_phases = len(tokens) - num_windows * length
    phases = [_phase(num_phases, seed=seed, epoch=int(epoch)) for epoch in epochs]
    starts = np.array(phases) + windows * length
    return _gather(tokens, starts, length)


def training_dataset(
    tokens: np.ndarray,
    *,
    start_step: int,
    num_steps: int,
    batch_size: int,
    length: int,
    seed: int,
    rows: slice = ALL_ROWS,
):
    """The batches `start_step` to `num_steps - 1` of `training_batch` as a `tf.data.Dataset`.

    Yields inputs and targets of static shape (rows, length), int32. A run that stopped after step k goes on
    with `start_step=k`.
    """

    def batch(index):
        return training_batch(tokens, index, batch_size=batch_size, length=length, seed=seed, rows=rows)

    shape = number_of_rows(batch_size, rows), length
    return batch_dataset(batch, start_step=start_step, num_steps=num_steps, shape=shape)


def batch_dataset(
    batch: Callable[[int], tuple[np.ndarray, np.ndarray]],
    *,
    start_step: int,
    num_steps: int,
    shape: tuple[int, int],
):
    """The values of `batch` at `start_step` to `num_steps - 1` as a `tf.data.Dataset`.

    They are inputs and targets, int32, each of `shape`, (rows, length).
    """
    import tensorflow as tf

    def load(index):
        inputs, targets = tf.numpy_function(lambda index: batch(int(index)), [index], [tf.int32, tf.int32])
        inputs.set_shape(shape)
        targets.set_shape(shape)
        return inputs, targets

    return tf.data.Dataset.range(start_step, num_steps).map(load).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    tokens: np.ndarray,
    *,
    batch_size: int,
    length: int,
    max_batches: int | None = None,
    rows: slice = ALL_ROWS,
) -> "EvaluationBatches":
    """Consecutive windows of `tokens`: every token but the first is a target exactly once.

    Args:
        tokens: (num_tokens,) integers, in memory or on disk; at least 2.
        max_batches: with fewer batches than the tokens fill, windows evenly spread over the tokens.
        rows: of each batch that are wanted.

    Raises:
        ValueError: if there is no target.
    """
    if len(tokens) < 2:
        raise ValueError(f"an evaluation needs 2 tokens or more, an input and its target, got {len(tokens)}.")

    def load(windows):
        return _evaluation_batch(tokens, windows, batch_size=number_of_rows(batch_size, rows), length=length)

    num_windows = -(-(len(tokens) - 1) // length)
    return EvaluationBatches(num_windows, load, batch_size=batch_size, max_batches=max_batches, rows=rows)


class EvaluationBatches(Sequence):
    """A sequence of (inputs, targets), read anew each time.

    Args:
        num_items: items 0..num_items - 1 are visited once each.
        load: makes a batch of the (rows,) items, or fewer or none; it fills up what is missing.
        max_batches: with fewer batches than there are, items evenly spread.
        rows: of each batch that are wanted.
    """

    def __init__(
        self,
        num_items: int,
        load: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        *,
        batch_size: int,
        max_batches: int | None,
        rows: slice = ALL_ROWS,
    ):
        self._items = spread_items(num_items, None if max_batches is None else max_batches * batch_size)
        self._load = load
        self._batch_size = batch_size
        self._rows = rows

    def __len__(self) -> int:
        return -(-len(self._items) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        items = self._items[index * self._batch_size : (index + 1) * self._batch_size]
        return self._load(items[self._rows])


def _evaluation_batch(
    tokens: np.ndarray, windows: np.ndarray, *, batch_size: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets; window w starts at token `w * length`.

    Places behind the last token, and rows that fill up the batch, have the target -1.
    """
    inputs = np.full((batch_size, length), SEPARATOR, np.int32)
    targets = np.full((batch_size, length), IGNORED_TARGET, np.int32)
    for row, window in enumerate(windows):
        start = int(window) * length
        piece = tokens[start : start + length + 1]
        inputs[row, : len(piece) - 1] = piece[:-1]
        targets[row, : len(piece) - 1] = piece[1:]
    return inputs, targets


@lru_cache(maxsize=2)
def _phase(num_phases: int, *, seed: int, epoch: int) -> int:
    """Token at which the first window of an epoch starts."""
    return int(epoch_generator(seed, epoch, stream=PHASE_STREAM).integers(num_phases))


def _gather(tokens: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (batch, length) int32 each, of the windows that begin at `starts`, (batch,)."""
    windows = np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int32)
    return windows[:, :-1], windows[:, 1:]
