"""Training and evaluation batches of tokens, and the rows that each of several processes reads."""

import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from data.batches import (
    EvaluationBatches,
    batch_dataset,
    batch_items,
    epoch_order,
    evaluation_windows,
    training_batch,
)
from data.config import AugmentConfig
from data.image_batches import image_training_dataset
from data.images import ImageSplit
from data.passkeys import Passkeys

# Each token is its own position, so that a window shows its start.
TOKENS = np.arange(1_000, dtype=np.int64)


def starts(index, *, batch_size, length, seed=7, tokens=TOKENS) -> np.ndarray:
    return training_batch(tokens, index, batch_size=batch_size, length=length, seed=seed)[0][:, 0]


def evaluation(tokens, *, batch_size, length, **options) -> EvaluationBatches:
    load = partial(evaluation_windows, tokens, length=length)
    num_windows = -(-(len(tokens) - 1) // length)
    return EvaluationBatches(num_windows, load, batch_size=batch_size, **options)


def test_training_targets_are_the_tokens_after_the_inputs():
    inputs, targets = training_batch(TOKENS, 4, batch_size=3, length=8, seed=1)
    assert inputs.shape == targets.shape == (3, 8)
    assert inputs.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(8))
    np.testing.assert_array_equal(targets, inputs + 1)


def test_training_batch_depends_on_seed_and_index_alone():
    first = starts(5, batch_size=3, length=8)
    for other in range(200):  # other epochs replace the cached ones
        starts(other, batch_size=3, length=8, seed=other)
    np.testing.assert_array_equal(starts(5, batch_size=3, length=8), first)
    assert (starts(5, batch_size=3, length=8, seed=8) != first).any()
    assert (starts(6, batch_size=3, length=8) != first).any()


@pytest.mark.parametrize(
    ("num_tokens", "length"), [(1_000, 13), (104, 13), (105, 8), (27, 13), (9, 8), (15, 8)]
)
def test_epoch_visits_every_window_once_from_its_own_phase(num_tokens, length):
    tokens = TOKENS[:num_tokens]
    size = max(1, (num_tokens - length) // length)
    phases = set()
    for epoch in range(20):
        visited = np.sort(starts(epoch, batch_size=size, length=length, tokens=tokens))
        phases.add(int(visited[0]))
        np.testing.assert_array_equal(np.diff(visited), length)
        assert 0 <= visited[0] < 2 * length
        assert visited[-1] + length < num_tokens
    assert len(phases) > 1 or num_tokens == length + 1


def test_every_token_becomes_a_training_target():
    tokens = TOKENS[:61]
    batches = [training_batch(tokens, index, batch_size=6, length=8, seed=3) for index in range(200)]
    np.testing.assert_array_equal(np.unique([target for _, target in batches]), tokens[1:])


def test_batch_may_span_epochs_of_different_orders():
    assert (epoch_order(50, seed=1, epoch=0) != epoch_order(50, seed=1, epoch=1)).any()
    assert not epoch_order(50, seed=1, epoch=0).flags.writeable
    items, epochs = batch_items(1, batch_size=5, num_items=7, seed=2)
    np.testing.assert_array_equal(epochs, [0, 0, 1, 1, 1])
    expected = [*epoch_order(7, seed=2, epoch=0)[5:], *epoch_order(7, seed=2, epoch=1)[:3]]
    np.testing.assert_array_equal(items, expected)
    items, epochs = batch_items(0, batch_size=8, num_items=3, seed=2)
    np.testing.assert_array_equal(epochs, [0, 0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(np.sort(items[:3]), [0, 1, 2])


def test_dataset_resumes_at_any_step_with_static_shapes():
    batch = partial(training_batch, TOKENS, batch_size=3, length=8, seed=7)
    dataset = batch_dataset(batch, start_step=0, num_steps=11)
    assert [(spec.shape, spec.dtype.name) for spec in dataset.element_spec] == [((3, 8), "int32")] * 2
    whole = list(dataset.as_numpy_iterator())
    rest = list(batch_dataset(batch, start_step=6, num_steps=11).as_numpy_iterator())
    assert (len(whole), len(rest)) == (11, 5)
    np.testing.assert_array_equal(rest, whole[6:])
    np.testing.assert_array_equal(whole[4], batch(4))


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 10, 24, 25, 26, 100])
def test_every_token_but_the_first_is_an_evaluation_target_once(num_tokens, batch_size=3, length=8):
    tokens = (TOKENS[:num_tokens] + 5).astype(np.uint8)
    batches = evaluation(tokens, batch_size=batch_size, length=length)
    counted_targets = []
    for inputs, targets in batches:
        assert inputs.shape == targets.shape == (batch_size, length)
        assert inputs.dtype == targets.dtype == np.int32
        counted = targets != -1
        np.testing.assert_array_equal(inputs[counted] + 1, targets[counted])
        counted_targets.extend(targets[counted])
    np.testing.assert_array_equal(counted_targets, tokens[1:])


def test_rows_after_the_last_item_repeat_it_without_targets():
    *_, (inputs, targets) = evaluation(TOKENS[:34], batch_size=3, length=8)  # 5 windows
    np.testing.assert_array_equal(inputs[:, 0], [24, 32, 32])
    np.testing.assert_array_equal(targets[1], [33, -1, -1, -1, -1, -1, -1, -1])
    assert (inputs[1, 1:] == 0).all()
    assert (targets[2] == -1).all()


def test_evaluation_batches_can_be_indexed_and_read_again():
    batches = evaluation(TOKENS, batch_size=3, length=8)
    assert len(batches) == 42  # 999 targets / 8 in a row = 125 rows / 3
    np.testing.assert_array_equal(list(batches), list(batches))
    np.testing.assert_array_equal(batches[41], list(batches)[41])
    with pytest.raises(IndexError):
        batches[42]


@pytest.mark.parametrize("max_batches", [1, 4, 13, 42, 1_000])
def test_fewer_evaluation_batches_are_spread_over_the_tokens(max_batches):
    batches = evaluation(TOKENS, batch_size=3, length=8, max_batches=max_batches)
    assert len(batches) == min(max_batches, 42)
    rows = np.concatenate([inputs[:, 0] for inputs, _ in batches])[:125]
    gaps = np.diff([*rows, len(TOKENS)])
    assert rows[0] == 0
    assert gaps.min() >= 8
    assert gaps.max() - gaps.min() <= 16


BATCH = 6
PARTS = [slice(0, 2), slice(2, 4), slice(4, 6)]
RANDOM = np.random.default_rng(1)
BYTES = RANDOM.integers(0, 256, 200).astype(np.uint8)
SPLIT = ImageSplit(RANDOM.integers(0, 256, (13, 6, 5, 3)).astype(np.uint8), np.arange(13, dtype=np.int32))
IMAGES = SimpleNamespace(train=SPLIT, mean=np.full(3, 0.4), deviation=np.full(3, 0.3))
STEPS = {"start_step": 0, "num_steps": 9}
TRAINING = {"batch_size": BATCH, "seed": 2}
AUGMENT = AugmentConfig(rotation=20.0, flip=True)
# The last batch of each evaluation has so few items that one of the parts has less or none.
SOURCES = {
    "text": lambda **rows: batch_dataset(
        partial(training_batch, BYTES, length=8, **TRAINING, **rows), **STEPS
    ),
    "passkeys": lambda **rows: batch_dataset(
        partial(Passkeys(60, 2).training_batch, texts=2, **TRAINING, **rows), **STEPS
    ),
    "images": lambda **rows: image_training_dataset(IMAGES, augment=AUGMENT, **TRAINING, **STEPS, **rows),
    "held-out text": lambda **rows: evaluation(BYTES[:120], batch_size=BATCH, length=8, **rows),
}


@pytest.mark.parametrize("source", SOURCES)
def test_rows_of_several_processes_make_up_the_batch(source):
    whole = SOURCES[source]()
    parts = [SOURCES[source](rows=rows) for rows in PARTS]
    assert {len(each) for each in (whole, *parts)} == {len(whole)}
    for batch, *part_batches in zip(whole, *parts, strict=True):
        for index, value in enumerate(batch):
            pieces = [np.asarray(part[index]) for part in part_batches]
            assert [len(piece) for piece in pieces] == [2, 2, 2]
            assert not all((a == b).all() for a, b in itertools.combinations(pieces, 2))
            np.testing.assert_array_equal(np.concatenate(pieces), value)
