"""Generated passkey texts: content, depth, targets and order."""

import re

import numpy as np
import pytest

from data.batches import IGNORED_TARGET
from data.passkeys import FILLER, Passkeys
from system.errors import DataError

TEXT = re.compile(r"(.*)The key: (\d+)\. (.*)What was the key\? The key: (\d+)", re.DOTALL)
TRAINING = {"batch_size": 3, "texts": 3, "seed": 7}


def text_of(row):
    return bytes(row.astype(np.uint8)).decode()


def text(index, *, length, digits, **options):
    """A held-out text of byte tokens."""
    return text_of(Passkeys(length, digits).held_out_text(index, **options))


def training(index, *, length=200, digits=4, **options):
    return Passkeys(length, digits).training_batch(index, **TRAINING | options)


@pytest.mark.parametrize(("depth", "size"), [(0.0, 256), (0.1, 700), (0.73, 700), (1.0, 256)])
def test_key_is_stated_between_two_sentences_near_its_depth_and_at_the_end(depth, size):
    for seed in range(20):
        text = text_of(Passkeys(size, 5).text(np.random.default_rng(seed), size, depth=depth))
        before, stated, after, asked = TEXT.fullmatch(text).groups()
        assert (len(text), len(stated), stated) == (size, 5, asked)
        room = len(before) + len(after)
        assert abs(len(before) - depth * room) <= max(map(len, FILLER)) / 2
        assert any(before.endswith(sentence) for sentence in FILLER) or len(before) < max(map(len, FILLER))


def test_key_and_filler_are_the_same_at_every_depth():
    parts = [TEXT.fullmatch(text(3, length=256, digits=5, depth=d)).groups() for d in (0.0, 0.4, 1)]
    assert len({before + after for before, _, after, _ in parts}) == 1
    assert len({key for _, key, _, _ in parts}) == 1
    assert len({before for before, _, _, _ in parts}) == 3


def test_digits_of_a_key_are_distinct_and_uniform():
    for digits in (2, 10):
        keys = [text(i, length=90, digits=digits)[-digits:] for i in range(50)]
        assert {len(set(key)) for key in keys} == {digits}
    keys = np.array([list(text(i, length=60, digits=3)[-3:]) for i in range(300)])
    for place in range(3):
        assert set(keys[:, place]) == set("0123456789")


def test_held_out_targets_are_the_digits_of_the_answer():
    inputs, targets = Passkeys(90, 5).held_out(np.array([4, 0]))
    assert inputs.shape == targets.shape == (2, 90)
    assert inputs.dtype == targets.dtype == np.int32
    assert (targets[:, :-5] == IGNORED_TARGET).all()
    for row, target, number in zip(inputs, targets, (4, 0), strict=True):
        expected = text(number, length=90, digits=5)
        assert text_of(row) == "\0" + expected[:-1]
        assert text_of(target[-5:]) == expected[-5:]


def test_training_targets_are_the_answers_of_all_texts_of_a_row():
    counts = set()
    for index in range(8):
        inputs, targets = training(index)
        tokens = np.append(inputs, targets[:, -1:], axis=1)
        for row, target in zip(tokens, targets, strict=True):
            _, *texts = text_of(row).split("\0")
            answers = [TEXT.fullmatch(text)[4] for text in texts]
            assert text_of(target[target != IGNORED_TARGET]) == "".join(answers)
            ends = np.cumsum([len(text) + 1 for text in texts]) - 2
            expected = [end - 3 + offset for end in ends for offset in range(4)]
            np.testing.assert_array_equal(np.flatnonzero(target != IGNORED_TARGET), expected)
            counts.add(len(texts))
    assert counts == {1, 2, 3}
    inputs, _ = training(0, length=2 * Passkeys(200, 4).smallest + 1, texts=9)
    assert set((inputs == 0).sum(axis=1)) <= {1, 2}  # no more texts than fit


def test_training_batch_depends_on_seed_and_index_alone():
    first, again = (training(5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in (training(6), training(5, seed=8)):
        assert (other[0] != first[0]).any(axis=1).all()
    larger = training(0, batch_size=6)
    np.testing.assert_array_equal(np.array(larger)[:, 3:], training(1))


def test_held_out_texts_differ_from_training_texts():
    trained, _ = training(0, batch_size=64, texts=1, seed=0, digits=10)
    held_out, _ = Passkeys(200, 10).held_out(np.arange(64))
    trained, held_out = ({TEXT.search(text_of(row))[2] for row in rows} for rows in (trained, held_out))
    assert len(trained) == len(held_out) == 64
    assert not trained & held_out


def test_context_too_short_for_the_question_raises():
    shortest = Passkeys(200, 5).smallest
    assert text(0, length=shortest, digits=5).count("The key: ") == 2
    with pytest.raises(DataError, match=rf"a context of {shortest - 1} tokens is too short for a key of 5"):
        Passkeys(shortest - 1, 5)
