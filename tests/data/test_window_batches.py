"""Targets of an evaluation by window, and their inputs."""

import numpy as np
import pytest

from data.window_batches import choose_targets, window_batches
from system.errors import DataError


def make_tokens(*lengths):
    """Documents of these lengths between separators; their bytes are numbered from 1."""
    numbers = iter(range(1, 10_000))
    tokens = [0]
    for length in lengths:
        tokens += [next(numbers) for _ in range(length)] + [0]
    return np.array(tokens, np.int64)


TOKENS = make_tokens(11, 3, 8, 7, 29)
# In documents of at least 8 bytes: the bytes with 8 tokens of the document before them.
EXPECTED = [*range(8, 12), 22, *range(37, 59)]


def rows_of(*, window, stride, batch_size=3, longest=8, **options):
    """(inputs, targets) of every row, without those that fill up the last batch."""
    chosen = choose_targets(TOKENS, separator=0, window=longest, stride=stride, **options)
    batches = window_batches(chosen, window=window, batch_size=batch_size)
    rows = [row for inputs, targets in batches for row in zip(inputs, targets, strict=True)]
    assert all((targets == -1).all() for _, targets in rows[len(chosen) :])
    return rows[: len(chosen)]


def targets_of(rows):
    return [int(target) for _, targets in rows for target in targets if target >= 0]


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_targets_are_the_same_for_every_stride_and_window(stride):
    for window in (5, 7, 8):
        assert targets_of(rows_of(window=window, stride=stride)) == EXPECTED


@pytest.mark.parametrize("window", [5, 8])
@pytest.mark.parametrize("stride", [1, 3, 5])
def test_target_follows_its_inputs_which_are_of_its_document(window, stride):
    contexts = []
    for inputs, targets in rows_of(window=window, stride=stride):
        (end,) = np.flatnonzero(targets[-1] == TOKENS)
        np.testing.assert_array_equal(inputs, TOKENS[end - window : end])
        counted = targets[targets >= 0]
        np.testing.assert_array_equal(counted, TOKENS[end + 1 - len(counted) : end + 1])
        assert (targets[: stride - len(counted)] == -1).all()
        assert 0 not in inputs[1:]  # the first may be the separator before the document
        contexts += [window - back for back in range(len(counted))]
    assert min(contexts) == window - stride + 1
    assert max(contexts) == window


def test_blocks_have_the_number_of_their_document():
    chosen = choose_targets(TOKENS, separator=0, window=8, stride=3)
    sums = np.bincount(chosen.documents, weights=chosen.counts)
    np.testing.assert_array_equal(sums, [4, 0, 1, 0, 22, *[0] * (len(sums) - 5)])


def test_fewer_targets_are_whole_blocks_spread_over_all():
    blocks = [tuple(targets) for _, targets in rows_of(window=8, stride=2)]
    few = [tuple(targets) for _, targets in rows_of(window=8, stride=2, max_targets=11)]
    assert len(few) == 5  # 11 // 2
    places = [blocks.index(block) for block in few]
    assert set(np.diff(places)) <= {2, 3}  # 14 blocks / 5
    shorter = targets_of(rows_of(window=5, stride=2, max_targets=11))
    assert shorter == [target for block in few for target in block if target > 0]
    assert targets_of(rows_of(window=8, stride=2, max_targets=1_000)) == EXPECTED


def test_last_separator_may_be_missing():
    chosen = choose_targets(TOKENS[:-1], separator=0, window=8, stride=3)
    assert chosen.ends[-1] == len(TOKENS) - 2


def test_window_longer_than_any_document_raises():
    assert len(choose_targets(TOKENS, separator=0, window=29, stride=4)) == 1
    with pytest.raises(DataError, match=r"window of 30 tokens is longer .* the longest has 29 tokens"):
        choose_targets(TOKENS, separator=0, window=30, stride=4)
