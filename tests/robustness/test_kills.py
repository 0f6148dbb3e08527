"""Kills of whole runs, and the comparison of runs; `python -m tests.robustness.kills` is the long form."""

import numpy as np
import pytest

from tests.comparison import READERS, differences, events_of, tensors_of
from tests.robustness.kills import main


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lm", "vit"])
def test_a_killed_run_ends_as_an_uninterrupted_one(task, capsys):
    assert main(["--count", "3", "--tasks", task]) == 0
    assert "all equal, bit for bit" in capsys.readouterr().out


def test_differences_between_runs_are_found(trained_run, monkeypatch):
    """One bit of a tensor, a second value of an event, a row and a key."""
    tensors, events = tensors_of(trained_run), events_of(trained_run)
    name, key = sorted(tensors)[0], (10, "loss")
    flipped = np.frombuffer(tensors[name].tobytes(), np.uint8).copy()
    flipped[0] ^= 1
    changed = {name: np.frombuffer(flipped.tobytes(), tensors[name].dtype).reshape(tensors[name].shape)}
    results = {
        "tensor": (tensors, tensors | changed),
        "event of TensorBoard": (events, events | {key: events[key] | {0.0}}),
        "row of metrics.jsonl": ({0: {"step": 1}}, {0: {"step": 2}}),
        "key of summary.json": ({"step": 30}, {"steps": 30}),
    }
    for reader, values in results.items():
        iterator = iter(values)
        monkeypatch.setitem(READERS, reader, lambda run, turns=iterator: next(turns))
    assert differences(trained_run, trained_run) == [
        f"tensor: {name} differs",
        "row of metrics.jsonl: 0 differs",
        f"event of TensorBoard: {key} differs",
        "key of summary.json: step is in one run only",
        "key of summary.json: steps is in one run only",
    ]
