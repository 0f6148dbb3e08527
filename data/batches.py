"""Batches as pure functions of (seed, index), and the `tf.data` dataset that calls them.

Shape words: length, the tokens of a window; rows, the examples that this process reads: `batch_size`, or
fewer if the argument `rows` is a slice because several processes share the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import tensorflow as tf

IGNORED_TARGET = -1  # masked in the loss
ALL_ROWS = slice(None)
Arrays = tuple[np.ndarray, np.ndarray]

# Streams of `random_generator`; `data.passkeys` has others.
PERMUTATION_STREAM, PHASE_STREAM, AUGMENT_STREAM = 0, 1, 2


def random_generator(seed: int, number: int, *, stream: int) -> np.random.Generator:
    """Random numbers of the epoch or item `number`, independent of other streams."""
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]))


# A batch usually spans at most two epochs.
@lru_cache(maxsize=2)
def epoch_order(num_items: int, *, seed: int, epoch: int) -> np.ndarray:
    """(num_items,) random permutation of the items 0..num_items - 1 for one epoch; read-only."""
    order = random_generator(seed, epoch, stream=PERMUTATION_STREAM).permutation(num_items)
    order.flags.writeable = False
    return order


def batch_items(index: int, *, batch_size: int, num_items: int, seed: int, rows=ALL_ROWS) -> Arrays:
    """Items of batch `index`, drawn without replacement in an epoch, and their epochs, (rows,) int64 each."""
    positions = index * batch_size + np.arange(batch_size)[rows]  # (rows,)
    epochs, places = np.divmod(positions, num_items)
    items = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        items[inside] = epoch_order(num_items, seed=seed, epoch=int(epoch))[places[inside]]
    return items, epochs


def training_batch(
    tokens: np.ndarray, index: int, *, batch_size: int, length: int, seed: int, rows: slice = ALL_ROWS
) -> Arrays:
    """(rows, length) int32 inputs and targets, the tokens after them, of batch `index` of an endless run.

    An epoch divides the tokens, (num_tokens,), into windows `length` apart, starting at a random phase, and
    visits each once in a random order. Phase and order depend on (seed, epoch).
    """
    num_windows = max(1, (len(tokens) - length) // length)  # as many as fit at every phase
    windows, epochs = batch_items(index, batch_size=batch_size, num_items=num_windows, seed=seed, rows=rows)
    # Between `length` and 2 * length - 1 phases, so that every alignment occurs and every token is used.
    num_phases = len(tokens) - num_windows * length
    generators = (random_generator(seed, int(epoch), stream=PHASE_STREAM) for epoch in epochs)
    phases = np.array([generator.integers(num_phases) for generator in generators])
    starts = phases + windows * length  # (rows,)
    pieces = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)  # (rows, length + 1)
    return pieces[:, :-1], pieces[:, 1:]  # (rows, length) each


def batch_dataset(
    batch: Callable[[int], tuple[np.ndarray, ...]], *, start_step: int, num_steps: int
) -> tf.data.Dataset:
    """Dataset of the arrays `batch(i)`, of the same shapes and dtypes, for `start_step <= i < num_steps`."""
    first = batch(start_step)
    dtypes = [tf.as_dtype(array.dtype) for array in first]

    def load(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        arrays = tf.numpy_function(lambda index: batch(int(index)), [index], dtypes)
        return tuple(tf.ensure_shape(array, like.shape) for array, like in zip(arrays, first, strict=True))

    return tf.data.Dataset.range(start_step, num_steps).map(load).prefetch(tf.data.AUTOTUNE)


@dataclass(frozen=True, eq=False)
class EvaluationBatches(Sequence):
    """Sequence of (inputs, targets) that can be indexed and read repeatedly.

    Each of `num_items` is visited once, or evenly spread items if `max_batches` is less than that takes.
    `load` returns inputs and targets of some items, (rows,) int64. The rows of the last batch that are left
    over repeat the last item, with targets -1.
    """

    num_items: int
    load: Callable[[np.ndarray], Arrays]
    batch_size: int
    max_batches: int | None = None
    rows: slice = field(default_factory=lambda: ALL_ROWS)  # a slice has no hash in Python 3.11

    def __len__(self) -> int:
        num_batches = -(-self.num_items // self.batch_size)
        return min(num_batches, self.max_batches or num_batches)

    def __getitem__(self, index: int) -> Arrays:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        num_visited = min(self.num_items, len(self) * self.batch_size)
        positions = index * self.batch_size + np.arange(self.batch_size)[self.rows]  # (rows,)
        items = np.minimum(positions, num_visited - 1) * self.num_items // num_visited
        inputs, targets = self.load(items)
        targets[positions >= num_visited] = IGNORED_TARGET
        return inputs, targets


def evaluation_windows(tokens: np.ndarray, windows: np.ndarray, *, length: int) -> Arrays:
    """Inputs and targets of windows that start at token `window * length`, (rows, length) int32 each.

    Every token except the first is a target once; positions after the last token have the target -1.
    """
    positions = windows[:, None] * length + np.arange(length + 1)  # (rows, length + 1)
    pieces = tokens[np.minimum(positions, len(tokens) - 1)].astype(np.int32)  # (rows, length + 1)
    has_target = positions[:, 1:] < len(tokens)  # (rows, length)
    inputs = np.where(has_target, pieces[:, :-1], 0)
    return inputs, np.where(has_target, pieces[:, 1:], IGNORED_TARGET)
