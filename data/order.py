"""The order in which a run visits its items: a pure function of (seed, position), the same after a resume."""

from functools import lru_cache

import numpy as np

# The rows of a batch that are read where several processes share it: by default, all.
ALL_ROWS = slice(None)

PERMUTATION_STREAM = 0
PHASE_STREAM = 1
AUGMENT_STREAM = 2
PASSKEY_STREAM = 3
HELD_OUT_PASSKEY_STREAM = 4


def epoch_generator(seed: int, epoch: int, *, stream: int) -> np.random.Generator:
    """Random numbers of one epoch; each `stream` of it is independent of the others."""
    return generator_of(seed, epoch, stream=stream)


def generator_of(seed: int, number: int, *, stream: int) -> np.random.Generator:
    """Random numbers of the item of this number; each `stream` of it is independent of the others."""
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream]))


# A batch touches one epoch, or two where they meet.
@lru_cache(maxsize=2)
def epoch_order(num_items: int, *, seed: int, epoch: int) -> np.ndarray:
    """(num_items,) the items 0..num_items - 1 in the order of one epoch; read-only.

    The same for every version of NumPy that keeps `Generator.permutation`.
    """
    dtype = np.int32 if num_items <= np.iinfo(np.int32).max else np.int64
    generator = epoch_generator(seed, epoch, stream=PERMUTATION_STREAM)
    order = generator.permutation(np.arange(num_items, dtype=dtype))
    order.flags.writeable = False
    return order


def batch_items(index: int, *, batch_size: int, num_items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items of batch `index`, drawn without replacement within an epoch; a batch may straddle epochs.

    Returns:
        (batch_size,) int64 items and the (batch_size,) int64 epoch that each belongs to.
    """
    positions = index * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(positions, num_items)
    items = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        items[inside] = epoch_order(num_items, seed=seed, epoch=int(epoch))[places[inside]]
    return items, epochs


def number_of_rows(batch_size: int, rows: slice) -> int:
    """How many rows of a batch are in a slice of it."""
    return len(range(batch_size)[rows])


def spread_items(num_items: int, max_items: int | None) -> np.ndarray:
    """All of the items 0..num_items - 1, or `max_items` of them, evenly spread, if that is fewer."""
    if max_items is None or max_items >= num_items:
        return np.arange(num_items)
    return np.arange(max_items) * num_items // max_items
