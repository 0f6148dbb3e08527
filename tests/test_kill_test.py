"""Kills of whole runs, each a process of its own; `python -m tests.kill_test` is the long form."""

import random
import shutil

import numpy as np
import pytest

from tests.comparison import differences
from tests.kill_test import kill_often, latest_step, train_command
from tests.run_helpers import copy_of


def kill(workplace, name, *, kills, num_steps):
    """The run of a name, killed and then brought to its end in this process."""
    run = workplace.outputs / name
    command = train_command(*workplace.arguments(f"name={name}", "checkpoint_every=2"))
    moments = kill_often(
        command,
        run,
        kills=kills,
        num_steps=num_steps,
        generator=random.Random(kills),
        checkpoint_every=2,
        kinds=("while saving", "while training"),
    )
    assert moments.total() == kills
    assert moments["too late"] == 0
    assert latest_step(run) > 0
    assert workplace.train(f"name={name}") == 0
    return run


def test_a_language_model_killed_at_random_moments_ends_as_one_that_was_not(trained_run, workplace):
    run = kill(workplace, "tortured", kills=3, num_steps=30)
    assert differences(trained_run, run) == []
    assert (run / "samples.txt").read_bytes() == (trained_run / "samples.txt").read_bytes()


def test_a_vision_transformer_killed_at_random_moments_ends_as_one_that_was_not(
    trained_images, image_workplace
):
    assert differences(trained_images, kill(image_workplace, "tortured", kills=2, num_steps=12)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("metrics.jsonl", '"step": 5,', '"step": 6,', "row of metrics.jsonl: 1 differs"),
        ("summary.json", '"step": 30', '"step": 31', "key of summary.json: step differs"),
        ("summary.json", '"step": 30', '"steps": 30', "key of summary.json: step is in one alone"),
    ],
)
def test_runs_that_differ_are_told_apart(trained_run, name, old, new, told):
    run = copy_of(trained_run, "differs")
    try:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))
        assert told in differences(trained_run, run)
    finally:
        shutil.rmtree(run)


def test_a_bit_of_a_tensor_and_an_event_that_is_written_twice_are_differences(trained_run, monkeypatch):
    from tests import comparison

    tensors = comparison.tensors_of(trained_run)
    events = comparison.events_of(trained_run)
    name, key = sorted(tensors)[0], (10, "loss")
    flipped = np.frombuffer(tensors[name].tobytes(), np.uint8).copy()
    flipped[0] ^= 1
    others = {name: np.frombuffer(flipped.tobytes(), tensors[name].dtype).reshape(tensors[name].shape)}
    answers = {
        "tensor": iter([tensors, tensors | others]),
        "event of TensorBoard": iter([events, events | {key: events[key] * 2}]),
    }
    for reader, values in answers.items():
        monkeypatch.setitem(comparison.READERS, reader, lambda run, values=values: next(values))
    assert differences(trained_run, trained_run) == [
        f"tensor: {name} differs",
        f"event of TensorBoard: {key} differs",
    ]
