"""Checkpoints that are damaged, or not those that their manifest describes."""

import hashlib
import itertools
import json
import os

import numpy as np
import pytest

from system.errors import RunError
from tests.run_helpers import assert_same_tensors
from tests.training.checkpoint_runs import FILES, Run, truncate
from training.checkpoints import read_latest_manifest, restore_weights


def empty(path):
    os.truncate(path, 0)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_skipped_with_a_note_that_names_the_file(run, capsys):
    run.save(1)
    expected = run.values()
    path = run.save(2)
    for name, damage in itertools.product(FILES, (truncate, empty, flip_a_bit, os.unlink)):
        intact = (path / name).read_bytes()
        damage(path / name)
        run.fill(7)
        assert run.checkpoints.restore_latest()["step"] == 1
        assert_same_tensors(run.values(), expected)
        (note,) = capsys.readouterr().err.splitlines()
        assert note.startswith(f"note: skipped {path}: ")
        assert name in note
        (path / name).write_bytes(intact)
    assert run.checkpoints.restore_latest()["step"] == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "has format 2 and step 2, expected format 3 and step 2"),
        ({"step": 5}, "has format 3 and step 5, expected format 3 and step 2"),
        ({"files": {"x": ""}}, "step-00000002/x'"),
    ],
)
def test_a_manifest_of_another_checkpoint_is_skipped_with_a_note(run, capsys, changes, problem):
    run.save(1)
    path = run.save(2)
    content = json.dumps(json.loads((path / "manifest.json").read_text()) | changes).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  manifest.json\n")
    assert run.checkpoints.restore_latest()["step"] == 1
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: skipped {path}: ")
    assert problem in note


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_scratch(run):
    paths = [run.save(step) for step in (1, 2)]
    for path in paths:
        truncate(path / "tensors.index")
    run.fill(7)
    expected = run.values()
    problem = r"step-00000002: tensors.index is damaged.* \(and 1 earlier\). To start a new run"
    with pytest.raises(RunError, match=problem):
        run.checkpoints.restore_latest()
    assert_same_tensors(run.values(), expected)
    assert run.names() == ["step-00000001", "step-00000002"]


def test_the_latest_intact_checkpoint_or_that_of_a_step_is_read(tmp_path, capsys):
    run = Run(tmp_path, keep=3)
    values = {}
    for step in (1, 2):
        path = run.save(step)
        values[step] = run.values()
    truncate(run.save(3) / "tensors.index")
    found, manifest = read_latest_manifest(tmp_path)
    assert (found, manifest["step"], manifest["data_fingerprint"]) == (path, 2, "abc")
    other = Run(tmp_path / "other", seed=5)
    slots = other.values()
    for step, restored in ((None, 2), (1, 1)):
        assert restore_weights(tmp_path, other.model, step=step)["step"] == restored
        for name, value in other.values().items():
            source = values[restored] if name.startswith("model/") else slots
            np.testing.assert_array_equal(value, source[name], err_msg=name)
    assert len(capsys.readouterr().err.splitlines()) == 2  # notes about step 3
    with pytest.raises(RunError, match=r"step-00000003: tensors.index is damaged"):
        read_latest_manifest(tmp_path, step=3)
    with pytest.raises(RunError, match=r"no checkpoint of step 9; available steps: 1, 2, 3"):
        read_latest_manifest(tmp_path, step=9)


def test_damaged_checkpoints_of_later_steps_do_not_replace_intact_ones(tmp_path):
    run = Run(tmp_path, keep=1)
    truncate(run.save(20) / "tensors.index")
    run.save(10)
    run.save(15)
    assert run.names() == ["step-00000015", "step-00000020"]
    assert run.checkpoints.restore_latest()["step"] == 15
    run.save(20)
    assert run.names() == ["step-00000020"]
    assert run.checkpoints.restore_latest()["step"] == 20


def test_a_damaged_checkpoint_does_not_count_among_the_latest(tmp_path):
    run = Run(tmp_path, keep=2)
    run.save(1)
    truncate(run.save(2) / "tensors.index")
    assert run.checkpoints.restore_latest()["step"] == 1
    run.save(3)
    assert run.names() == ["step-00000001", "step-00000003"]
    run.save(2)  # is undamaged again
    run.save(4)
    assert run.names() == ["step-00000003", "step-00000004"]
