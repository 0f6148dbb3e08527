"""Checkpoints that are damaged, or not those that their manifest describes."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from system.errors import RunError
from tests.run_helpers import assert_same_tensors, rewrite_manifest
from tests.training.checkpoint_runs import EMBEDDING, FILES, Run, truncate
from training.checkpoints import digest_line, read_latest_manifest, restore_weights


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    os.truncate(path, 0)


def write_signed_manifest(checkpoint, text):
    (checkpoint / "manifest.json").write_text(text)
    (checkpoint / "manifest.sha256").write_bytes(digest_line(text.encode()))


@pytest.mark.parametrize("damage", [truncate, flip_bit, empty, os.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_skipped_with_a_line_that_names_the_file(run, messages, name, damage):
    run.save(1)
    expected = run.values()
    damage(run.save(2) / name)
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    assert_same_tensors(run.values(), expected)
    (message,) = messages
    assert message.startswith(f"skipped {run.checkpoints.directory / 'step-00000002'}: ")
    assert name in message
    assert "\n" not in message


def test_every_flipped_bit_is_detected(run):
    path = run.save(1)
    generator = np.random.default_rng(0)
    for name in FILES:
        intact = (path / name).read_bytes()
        for _ in range(30):
            content = np.frombuffer(intact, np.uint8).copy()
            content[generator.integers(len(content))] ^= 1 << generator.integers(8)
            (path / name).write_bytes(content.tobytes())
            with pytest.raises(RunError, match=name.replace(".", r"\.")):
                run.checkpoints.restore_latest()
        (path / name).write_bytes(intact)
    assert run.checkpoints.restore_latest()["step"] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"format": 2, "step": 2}', "has format 2, expected 3"),
        ('{"format": 3, "step": 5}', "is that of step 5"),
    ],
)
def test_a_manifest_of_another_format_or_step_is_reported_in_one_line(run, messages, text, problem):
    run.save(1)
    write_signed_manifest(run.save(2), text)
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    (message,) = messages
    assert problem in message and "\n" not in message


def test_a_manifest_that_lists_a_missing_file_is_reported_in_one_line(run, messages):
    run.save(1)
    path = run.save(2)
    facts = json.loads((path / "manifest.json").read_text()) | {"files": {"x": ""}}
    write_signed_manifest(path, json.dumps(facts))
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    assert messages == [f"skipped {path}: x is missing"]


def test_the_tensors_in_the_manifest_are_compared_before_any_is_read(run, monkeypatch):
    path = run.save(1)
    tensors = json.loads((path / "manifest.json").read_text())["tensors"]
    rewrite_manifest(path, {"tensors": tensors | {EMBEDDING: "float32[7000000000,6]"}})
    monkeypatch.setattr(tf.train, "load_checkpoint", None)
    with pytest.raises(RunError, match=r"embeddings is float32\[7000000000,6\], expected"):
        run.checkpoints.restore_latest()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_scratch(run):
    paths = [run.save(step) for step in (1, 2)]
    for path in paths:
        truncate(path / "tensors.index")
    run.fill(7)
    expected = run.values()
    with pytest.raises(
        RunError, match=r"step-00000002: tensors.index is damaged.* \(and 1 earlier\). To start a new run"
    ):
        run.checkpoints.restore_latest()
    assert_same_tensors(run.values(), expected)
    assert run.names() == ["step-00000001", "step-00000002"]


def test_the_latest_intact_checkpoint_is_read_without_a_model(run, tmp_path, messages):
    run.save(1)
    path = run.save(2)
    truncate(run.save(3) / "tensors.index")
    found, manifest = read_latest_manifest(tmp_path, report=messages.append)
    assert (found, manifest["step"], manifest["data_fingerprint"]) == (path, 2, "abc")
    assert len(messages) == 1
    with pytest.raises(RunError, match=r"step-00000003: tensors.index is damaged"):
        read_latest_manifest(tmp_path, step=3)
    with pytest.raises(RunError, match=r"no checkpoint of step 9; available steps: 2, 3"):
        read_latest_manifest(tmp_path, step=9)


def test_weights_are_restored_from_the_latest_intact_checkpoint_or_from_a_step(tmp_path, messages):
    run = Run(tmp_path, keep=3)
    values = []
    for step in (1, 2):
        run.save(step)
        values.append(run.values())
    truncate(run.save(3) / "tensors.index")
    other = Run(tmp_path / "other", seed=5)
    slots = other.values()
    for step, expected in ((None, values[1]), (1, values[0])):
        manifest = restore_weights(tmp_path, other.model, step=step, report=messages.append)
        assert manifest["step"] == (step or 2)
        for name, value in other.values().items():
            source = expected if name.startswith("model/") else slots
            np.testing.assert_array_equal(value, source[name], err_msg=name)
    assert len(messages) == 1


def test_damaged_checkpoints_of_later_steps_do_not_replace_intact_ones(tmp_path):
    run = Run(tmp_path, keep=1)
    truncate(run.save(20) / "tensors.index")
    run.save(10)
    run.save(15)
    assert run.names() == ["step-00000015", "step-00000020"]
    assert run.checkpoints.restore_latest(report=lambda line: None)["step"] == 15
    run.save(20)
    assert run.names() == ["step-00000020"]
    assert run.checkpoints.restore_latest()["step"] == 20


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_skipped_checkpoint_does_not_count_as_kept(tmp_path, keep_best):
    run = Run(tmp_path, keep=2, keep_best=keep_best)
    run.save(10, validation_loss=2.0)
    truncate(run.save(20, validation_loss=1.0) / "tensors.index")
    assert run.checkpoints.restore_latest(report=lambda line: None)["step"] == 10
    run.save(15)
    assert run.names() == ["step-00000010", "step-00000015", "step-00000020"]
    run.save(25)
    assert run.names() == ["step-00000010"] * keep_best + ["step-00000015", "step-00000025"]
