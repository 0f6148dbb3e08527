"""Checkpoints: saving, rotation and restoring."""

import json
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from system.errors import DivergedError, RunError
from tests.run_helpers import assert_same_tensors
from tests.training.checkpoint_runs import EMBEDDING, FILES, Run
from training.checkpoints import restore_weights


def test_restored_values_equal_saved_values_bit_for_bit(run, tmp_path):
    run.save(3)
    saved = run.values()
    assert len(saved) == 3 + 1 + 2 * 3  # weights, the iteration, two slots a weight
    assert saved["optimizer/adamw/iteration"] == 3
    other = Run(tmp_path, seed=1)  # the names are the same in one process
    assert (other.values()[EMBEDDING] != saved[EMBEDDING]).all()
    manifest = other.checkpoints.restore_latest()
    assert (manifest["format"], manifest["step"], manifest["data_fingerprint"]) == (3, 3, "abc")
    assert manifest["tensors"][EMBEDDING] == "float32[7,6]"
    assert manifest["tensors"]["optimizer/adamw/iteration"] == "int64[]"
    assert manifest["tensors"].keys() == saved.keys()
    assert_same_tensors(other.values(), saved)


@pytest.mark.parametrize("name", ["v[1]", "a*b", "what?", "back\\slash"])
def test_directory_names_are_not_patterns(tmp_path, name):
    run = Run(tmp_path / name)
    run.save(3)
    saved = run.values()
    run.fill(1)
    assert run.checkpoints.restore_latest()["step"] == 3
    assert_same_tensors(run.values(), saved)


def test_the_latest_checkpoints_by_number_are_kept(tmp_path):
    run = Run(tmp_path, keep=3)
    for step in (9, 10, 99_999_999, 100_000_000):
        run.save(step)
    assert run.names() == ["step-00000010", "step-99999999", "step-100000000"]
    assert run.checkpoints.restore_latest()["step"] == 100_000_000
    assert run.checkpoints.go_back(99_999_999) == 99_999_999
    assert run.names() == ["step-00000010", "step-99999999"]


LOSSES = {1: 3.0, 2: 1.5, 3: 2.0, 4: float("nan"), 5: None, 6: 1.5, 7: 1.75}


@pytest.mark.parametrize(("keep_best", "expected"), [(True, [2, 6, 7]), (False, [6, 7])])
def test_the_checkpoint_of_the_lowest_validation_loss_is_kept_too(tmp_path, keep_best, expected):
    run = Run(tmp_path, keep_best=keep_best)
    for step, loss in LOSSES.items():
        run.save(step, **({} if loss is None else {"validation_loss": loss}))
    assert run.names() == [f"step-{step:08d}" for step in expected]
    run.save(8, validation_loss=1.25)
    run.save(9)
    run.save(10)
    assert run.names() == [f"step-{step:08d}" for step in ([8, 9, 10] if keep_best else [9, 10])]


def test_a_checkpoint_contains_tensors_and_json_only_and_sha256sum_verifies_it(run):
    path = run.save(3)
    assert sorted(file.name for file in path.iterdir()) == FILES
    reader = tf.train.load_checkpoint(str(path / "tensors"))
    assert set(reader.get_variable_to_dtype_map().values()) == {tf.float32, tf.int64}
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(listed) == FILES[2:]
    lines = (path / "manifest.sha256").read_text()
    lines += "".join(f"{digest}  {name}\n" for name, digest in listed.items())
    subprocess.run(["sha256sum", "--check", "--strict"], input=lines, text=True, cwd=path, check=True)


@pytest.mark.parametrize(
    ("name", "value"), [(EMBEDDING, np.nan), ("optimizer/adamw/stack_dense_0_kernel_velocity", np.inf)]
)
def test_a_value_that_is_not_finite_is_not_saved(run, name, value):
    run.save(1)
    variable = run.checkpoints.variables[name]
    variable.assign(np.full(variable.shape, value))
    with pytest.raises(DivergedError, match=f"step 2: {name} is not finite") as caught:
        run.checkpoints.save(2, {})
    assert caught.value.good_step == 1
    assert [path.name for path in run.checkpoints.directory.iterdir()] == ["step-00000001"]


def test_go_back_removes_later_checkpoints(tmp_path):
    run = Run(tmp_path, keep=9)
    for step in (2, 4, 6):
        run.save(step)
    assert run.checkpoints.go_back(5) == 4
    assert run.names() == ["step-00000002", "step-00000004"]
    assert run.values()["optimizer/adamw/iteration"] == 4
    assert run.checkpoints.go_back(1) is None
    assert run.names() == []


def test_checkpoints_from_before_skipped_steps_are_kept(tmp_path):
    """A run may be stopped, and so save, during skipped steps, and then have to go back."""
    run = Run(tmp_path, keep=1)
    run.save(10)
    for step in (11, 12):
        run.save(step, bad_steps={"in_a_row": step - 10, "in_all": step - 10})
    assert run.checkpoints.restore_latest()["step"] == 12
    assert run.checkpoints.go_back(10) == 10
    run.save(11, bad_steps={"in_a_row": 1, "in_all": 1})
    run.save(13, bad_steps={"in_a_row": 0, "in_all": 2})
    assert run.names() == ["step-00000013"]


@pytest.mark.parametrize(
    ("saved", "built", "problem"),
    [
        ({"num_layers": 2}, {}, "model/stack/dense_1/kernel is float32[6,6], expected no such tensor"),
        ({}, {"num_layers": 2}, "model/stack/dense_1/kernel is missing, expected float32[6,6]"),
        ({"dim": 4}, {"dim": 8}, f"{EMBEDDING} is float32[7,4], expected float32[7,8] (and "),
    ],
)
def test_weights_of_another_model_are_refused_by_name(tmp_path, saved, built, problem):
    Run(tmp_path, **saved).save(1)
    other = Run(tmp_path, seed=3, **built)
    before = other.values()
    for restore in (other.checkpoints.restore_latest, lambda: restore_weights(tmp_path, other.model)):
        with pytest.raises(RunError) as caught:
            restore()
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)
    assert_same_tensors(other.values(), before)
