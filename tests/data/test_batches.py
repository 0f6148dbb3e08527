"""Training and evaluation batches."""

import itertools

import numpy as np
import pytest

from data.batches import (
    batch_items,
    epoch_order,
    evaluation_batches,
    training_batch,
    training_dataset,
    windows_per_epoch,
)

# Each token is its own position, so that a window says where it was taken.
TOKENS = np.arange(1_000, dtype=np.int64)


def starts(
    index: int, *, batch_size: int, length: int, seed: int = 7, tokens: np.ndarray = TOKENS
) -> np.ndarray:
    return training_batch(tokens, index, batch_size=batch_size, length=length, seed=seed)[0][:, 0]


@pytest.mark.parametrize(("batch_size", "length"), [(3, 8), (5, 2), (2, 13)])
def test_targets_are_the_tokens_after_the_inputs(batch_size, length):
    inputs, targets = training_batch(TOKENS, 4, batch_size=batch_size, length=length, seed=1)
    assert inputs.shape == targets.shape == (batch_size, length)
    assert inputs.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(length))
    np.testing.assert_array_equal(targets, inputs + 1)


def test_batch_depends_on_seed_and_index_alone():
    first = starts(5, batch_size=3, length=8)
    for other in range(200):  # other epochs push the cached ones out
        starts(other, batch_size=3, length=8, seed=other)
    np.testing.assert_array_equal(starts(5, batch_size=3, length=8), first)
    assert (starts(5, batch_size=3, length=8, seed=8) != first).any()
    assert (starts(6, batch_size=3, length=8) != first).any()


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_order_of_windows_does_not_depend_on_the_batch_size(batch_size):
    one_by_one = [starts(index, batch_size=1, length=13)[0] for index in range(200)]
    batches = [starts(index, batch_size=batch_size, length=13) for index in range(200 // batch_size)]
    np.testing.assert_array_equal(np.concatenate(batches), one_by_one[: batch_size * (200 // batch_size)])


@pytest.mark.parametrize(
    ("num_tokens", "length"), [(1_000, 13), (104, 13), (105, 8), (27, 13), (9, 8), (15, 8)]
)
def test_an_epoch_visits_every_window_once_from_a_phase_of_its_own(num_tokens, length):
    tokens = TOKENS[:num_tokens]
    size = windows_per_epoch(num_tokens, length)
    phases = set()
    for epoch in range(20):
        visited = np.sort(starts(epoch, batch_size=size, length=length, tokens=tokens))
        phases.add(int(visited[0]))
        np.testing.assert_array_equal(np.diff(visited), length)
        assert 0 <= visited[0] < 2 * length
        assert visited[-1] + length < num_tokens
    assert len(phases) > 1 or num_tokens == length + 1


def test_every_token_is_a_target_sooner_or_later():
    tokens = TOKENS[:61]
    batches = [training_batch(tokens, index, batch_size=6, length=8, seed=3) for index in range(200)]
    targets = np.unique([target for _, target in batches])
    np.testing.assert_array_equal(targets, tokens[1:])


def test_orders_of_two_epochs_differ():
    assert (epoch_order(50, seed=1, epoch=0) != epoch_order(50, seed=1, epoch=1)).any()
    assert not epoch_order(50, seed=1, epoch=0).flags.writeable


def test_a_batch_straddles_epochs():
    items, epochs = batch_items(1, batch_size=5, num_items=7, seed=2)
    np.testing.assert_array_equal(epochs, [0, 0, 1, 1, 1])
    expected = [*epoch_order(7, seed=2, epoch=0)[5:], *epoch_order(7, seed=2, epoch=1)[:3]]
    np.testing.assert_array_equal(items, expected)


def test_a_batch_may_be_larger_than_an_epoch():
    items, epochs = batch_items(0, batch_size=8, num_items=3, seed=2)
    np.testing.assert_array_equal(epochs, [0, 0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(np.sort(items[:3]), [0, 1, 2])


def test_too_few_tokens_for_a_window_are_refused():
    with pytest.raises(ValueError, match="length 8 needs 9 tokens, got 8"):
        training_batch(TOKENS[:8], 0, batch_size=2, length=8, seed=0)


def test_the_dataset_resumes_where_a_run_stopped():
    options = {"num_steps": 11, "batch_size": 3, "length": 8, "seed": 7}
    whole = list(training_dataset(TOKENS, start_step=0, **options).as_numpy_iterator())
    rest = list(training_dataset(TOKENS, start_step=6, **options).as_numpy_iterator())
    assert (len(whole), len(rest)) == (11, 5)
    for resumed, straight in zip(rest, whole[6:], strict=True):
        np.testing.assert_array_equal(resumed, straight)
    np.testing.assert_array_equal(whole[4], training_batch(TOKENS, 4, batch_size=3, length=8, seed=7))


def test_the_dataset_has_static_shapes():
    dataset = training_dataset(TOKENS, start_step=0, num_steps=2, batch_size=3, length=8, seed=0)
    for spec in dataset.element_spec:
        assert spec.shape == (3, 8)
        assert spec.dtype.name == "int32"


@pytest.mark.parametrize("num_tokens", [2, 8, 9, 10, 24, 25, 26, 100])
@pytest.mark.parametrize(("batch_size", "length"), [(3, 8), (2, 5)])
def test_every_token_but_the_first_is_an_evaluation_target_once(num_tokens, batch_size, length):
    tokens = TOKENS[:num_tokens] + 5
    targets = []
    for inputs, target in evaluation_batches(tokens, batch_size=batch_size, length=length):
        assert inputs.shape == target.shape == (batch_size, length)
        assert inputs.dtype == target.dtype == np.int32
        counted = target != -1
        np.testing.assert_array_equal(inputs[counted] + 1, target[counted])
        assert (inputs[~counted] == 0).all()
        targets.extend(target[counted])
    np.testing.assert_array_equal(targets, tokens[1:])


def test_evaluation_batches_can_be_counted_indexed_and_read_again():
    batches = evaluation_batches(TOKENS, batch_size=3, length=8)
    assert len(batches) == len(list(batches)) == 42  # 999 targets / 8 in a row = 125 rows / 3
    np.testing.assert_array_equal(list(batches), list(batches))
    np.testing.assert_array_equal(batches[41], list(batches)[41])
    with pytest.raises(IndexError):
        batches[42]


@pytest.mark.parametrize("max_batches", [1, 4, 13])
def test_a_part_of_the_evaluation_is_spread_over_the_tokens(max_batches):
    batches = evaluation_batches(TOKENS, batch_size=3, length=8, max_batches=max_batches)
    assert len(batches) == max_batches
    rows = np.concatenate([inputs[:, 0] for inputs, _ in batches])
    gaps = np.diff([*rows, len(TOKENS)])
    assert rows[0] == 0
    assert gaps.min() >= 8
    assert gaps.max() - gaps.min() <= 16


@pytest.mark.parametrize("max_batches", [42, 43, 1_000])
def test_more_batches_than_there_are_means_all(max_batches):
    part = evaluation_batches(TOKENS, batch_size=3, length=8, max_batches=max_batches)
    whole = evaluation_batches(TOKENS, batch_size=3, length=8)
    for left, right in itertools.zip_longest(part, whole):
        np.testing.assert_array_equal(left, right)


def test_an_evaluation_without_a_target_is_refused():
    with pytest.raises(ValueError, match=r"2 tokens.* got 1"):
        evaluation_batches(TOKENS[:1], batch_size=3, length=8)
