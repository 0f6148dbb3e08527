"""Kills of whole runs, and the comparison of runs; `python -m tests.robustness.kills` is the long form."""

import random
import shutil

import numpy as np
import pytest

from tests import comparison
from tests.comparison import differences
from tests.robustness.kills import kill_often, latest_step, train_command
from tests.run_helpers import copy_of


def kill_and_finish(workplace, *, kills, num_steps):
    """Run directory of a run that is killed and then resumed to its end in this process."""
    run = workplace.outputs.parent / "killed" / "whole"
    counts = kill_often(
        train_command(*workplace.arguments("name=whole", f"output_dir={run.parent}", "checkpoint_every=2")),
        run,
        kills=kills,
        num_steps=num_steps,
        generator=random.Random(kills),
        checkpoint_every=2,
        moments=("while saving", "while training"),
    )
    assert counts.total() == kills
    assert counts["too late"] == 0
    assert latest_step(run) > 0
    assert workplace.train("name=whole", f"output_dir={run.parent}") == 0
    return run


@pytest.mark.slow
def test_a_killed_language_model_run_ends_as_an_uninterrupted_one(trained_run, workplace):
    run = kill_and_finish(workplace, kills=3, num_steps=30)
    assert differences(trained_run, run) == []


@pytest.mark.slow
def test_a_killed_vision_transformer_run_ends_as_an_uninterrupted_one(trained_images, image_workplace):
    assert differences(trained_images, kill_and_finish(image_workplace, kills=2, num_steps=12)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "difference"),
    [
        ("metrics.jsonl", '"step": 5,', '"step": 6,', "row of metrics.jsonl: 1 differs"),
        ("summary.json", '"step": 30', '"step": 31', "key of summary.json: step differs"),
        ("summary.json", '"step": 30', '"steps": 30', "key of summary.json: step is in one run only"),
    ],
)
def test_differences_between_runs_are_found(trained_run, name, old, new, difference):
    run = copy_of(trained_run, "changed")
    try:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))
        assert difference in differences(trained_run, run)
    finally:
        shutil.rmtree(run)


def test_a_flipped_bit_of_a_tensor_and_a_second_value_of_an_event_are_differences(trained_run, monkeypatch):
    tensors, events = comparison.tensors_of(trained_run), comparison.events_of(trained_run)
    name, key = sorted(tensors)[0], (10, "loss")
    flipped = np.frombuffer(tensors[name].tobytes(), np.uint8).copy()
    flipped[0] ^= 1
    changed = {name: np.frombuffer(flipped.tobytes(), tensors[name].dtype).reshape(tensors[name].shape)}
    results = {
        "tensor": iter([tensors, tensors | changed]),
        "event of TensorBoard": iter([events, events | {key: events[key] | {0.0}}]),
    }
    for reader, values in results.items():
        monkeypatch.setitem(comparison.READERS, reader, lambda run, values=values: next(values))
    assert differences(trained_run, trained_run) == [
        f"tensor: {name} differs",
        f"event of TensorBoard: {key} differs",
    ]
