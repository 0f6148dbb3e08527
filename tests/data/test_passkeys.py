"""Generated passkey texts: what they hold, where, and of what they are a function."""

import re
from functools import partial

import numpy as np
import pytest

from data.batches import IGNORED_TARGET, batch_dataset
from data.passkeys import (
    FILLER,
    QUESTION,
    STATEMENT,
    check_room,
    filler,
    fingerprint,
    held_out_passkeys,
    held_out_text,
    passkey_evaluation_batches,
    passkey_text,
    smallest_text,
    training_passkeys,
)
from system.errors import DataError

TEXT = re.compile(r"(.*)The key: (\d+)\. (.*)What was the key\? The key: (\d+)", re.DOTALL)
TRAINING = {"batch_size": 3, "length": 200, "digits": 4, "texts": 3, "seed": 7}


def draw_of(seed=0):
    return np.random.default_rng(seed)


def text_of(row):
    return bytes(row.astype(np.uint8)).decode()


def rows_with_last(inputs, targets):
    """Whole rows, the last target included."""
    return np.append(inputs, targets[:, -1:], axis=1)


@pytest.mark.parametrize(("size", "digits"), [(256, 5), (61, 3), (1024, 10)])
def test_a_text_has_its_size_and_ends_with_the_key_that_it_states(size, digits):
    text = passkey_text(draw_of(), size=size, digits=digits)
    assert len(text.encode()) == size
    _, stated, _, asked = TEXT.fullmatch(text).groups()
    assert stated == asked
    assert len(stated) == digits


def test_the_wording_is_that_of_these_tests_and_holds_no_other_key():
    assert TEXT.fullmatch(STATEMENT.format("12") + QUESTION + "12")
    assert not any(char.isdigit() or char == ":" for sentence in FILLER for char in sentence)


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("size", [256, 700])
def test_the_key_stands_at_the_asked_depth(depth, size):
    """Up to half of the longest sentence, as it stands between two."""
    for seed in range(20):
        before, _, after, _ = TEXT.fullmatch(
            passkey_text(draw_of(seed), size=size, digits=5, depth=depth)
        ).groups()
        room = len(before) + len(after)
        assert abs(len(before) - depth * room) <= max(map(len, FILLER)) / 2
        assert any(before.endswith(sentence) for sentence in FILLER) or len(before) < max(map(len, FILLER))


def test_key_and_filler_are_the_same_at_every_depth():
    parts = [TEXT.fullmatch(held_out_text(3, length=256, digits=5, depth=d)).groups() for d in (0.0, 0.4, 1)]
    assert len({before + after for before, _, after, _ in parts}) == 1
    assert len({key for _, key, _, _ in parts}) == 1
    assert len({before for before, _, _, _ in parts}) == 3


def test_depths_are_uniform_when_none_is_given():
    befores = [len(TEXT.fullmatch(held_out_text(i, length=600, digits=5))[1]) for i in range(400)]
    shares = np.histogram(befores, bins=4, range=(0, 600 - smallest_text(5)))[0] / 400
    np.testing.assert_allclose(shares, 0.25, atol=0.08)  # 3.7 standard errors of 400 draws


@pytest.mark.parametrize("digits", [2, 10])
def test_no_digit_of_a_key_is_there_twice(digits):
    keys = [held_out_text(i, length=90, digits=digits)[-digits:] for i in range(50)]
    assert {len(set(key)) for key in keys} == {digits}


def test_every_digit_occurs_at_every_place():
    keys = np.array([list(held_out_text(i, length=60, digits=3)[-3:]) for i in range(300)])
    for place in range(3):
        assert set(keys[:, place]) == set("0123456789")


def test_filler_is_of_whole_sentences_but_for_its_beginning():
    first, *others = filler(draw_of(), 200)
    assert sum(map(len, [first, *others])) == 200
    assert set(others) <= set(FILLER)
    assert any(sentence.endswith(first) for sentence in FILLER)
    assert filler(draw_of(), 0) == []


def test_held_out_targets_are_the_digits_of_the_answer_alone():
    inputs, targets = held_out_passkeys(np.array([4, 0]), length=90, digits=5)
    assert inputs.shape == targets.shape == (2, 90)
    assert inputs.dtype == targets.dtype == np.int32
    assert (targets[:, :-5] == IGNORED_TARGET).all()
    for row, target, number in zip(inputs, targets, (4, 0), strict=True):
        text = held_out_text(number, length=90, digits=5)
        assert text_of(row) == "\0" + text[:-1]
        assert text_of(target[-5:]) == text[-5:]


def test_training_targets_are_the_answers_of_the_texts_that_fill_a_row():
    counts = set()
    for index in range(8):
        inputs, targets = training_passkeys(index, **TRAINING)
        for row, target in zip(rows_with_last(inputs, targets), targets, strict=True):
            _, *texts = text_of(row).split("\0")
            assert len(text_of(row)) == TRAINING["length"] + 1
            answers = [TEXT.fullmatch(text)[4] for text in texts]
            assert text_of(target[target != IGNORED_TARGET]) == "".join(answers)
            ends = np.cumsum([len(text) + 1 for text in texts]) - 2
            expected = [end - 3 + offset for end in ends for offset in range(4)]
            np.testing.assert_array_equal(np.flatnonzero(target != IGNORED_TARGET), expected)
            counts.add(len(texts))
    assert counts == {1, 2, 3}


def test_a_row_holds_no_more_texts_than_fit():
    inputs, _ = training_passkeys(0, **TRAINING | {"length": 2 * smallest_text(4) + 1, "texts": 9})
    assert set((inputs == 0).sum(axis=1)) <= {1, 2}


def test_a_training_batch_is_a_function_of_its_seed_and_index():
    first, again = (training_passkeys(5, **TRAINING) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in (training_passkeys(6, **TRAINING), training_passkeys(5, **TRAINING | {"seed": 8})):
        assert (other[0] != first[0]).any(axis=1).all()


def test_a_row_does_not_depend_on_the_batch_size():
    whole = training_passkeys(0, **TRAINING | {"batch_size": 6})
    second = training_passkeys(1, **TRAINING)
    np.testing.assert_array_equal(np.array(whole)[:, 3:], second)


def test_held_out_texts_are_not_those_of_training():
    options = {"length": 200, "digits": 10}
    trained, _ = training_passkeys(0, batch_size=64, texts=1, seed=0, **options)
    held_out, _ = held_out_passkeys(np.arange(64), **options)
    trained, held_out = ({TEXT.search(text_of(row))[2] for row in rows} for rows in (trained, held_out))
    assert len(trained) == len(held_out) == 64
    assert not trained & held_out


def test_dataset_resumes_at_any_step():
    batch = partial(training_passkeys, **TRAINING)
    whole = list(batch_dataset(batch, start_step=0, num_steps=4))
    rest = list(batch_dataset(batch, start_step=2, num_steps=4))
    assert [inputs.shape for inputs, _ in whole] == [(3, 200)] * 4
    for expected, found in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(expected, found)
    np.testing.assert_array_equal(whole[3], training_passkeys(3, **TRAINING))


def test_evaluation_visits_each_held_out_text_once():
    batches = passkey_evaluation_batches(5, batch_size=2, length=90, digits=5)
    inputs, targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    expected = held_out_passkeys(np.arange(5), length=90, digits=5)
    np.testing.assert_array_equal(inputs[:5], expected[0])
    np.testing.assert_array_equal(targets[:5], expected[1])
    assert (targets[5:] == IGNORED_TARGET).all()
    assert len(passkey_evaluation_batches(5, batch_size=2, length=90, digits=5, max_batches=1)) == 1


def test_a_context_without_room_for_the_question_is_refused():
    shortest = smallest_text(5)
    check_room(length=shortest, digits=5)
    assert held_out_text(0, length=shortest, digits=5).count("The key: ") == 2
    with pytest.raises(DataError, match=rf"a context of {shortest - 1} tokens is too short for a key of 5"):
        check_room(length=shortest - 1, digits=5)


def test_the_fingerprint_tells_other_texts_apart():
    assert fingerprint(length=90, digits=5) == fingerprint(length=90, digits=5)
    others = {fingerprint(length=90, digits=4), fingerprint(length=91, digits=5)}
    assert len({*others, fingerprint(length=90, digits=5)}) == 3
