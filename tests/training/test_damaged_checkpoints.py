"""Checkpoints that a disk has damaged or somebody forged."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from system.errors import RunError
from tests.run_helpers import assert_same_tensors, rewrite_manifest
from tests.training.checkpoint_runs import EMBEDDING, FILES, Run, truncate


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [truncate, flip_bit, empty, os.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_used(run, messages, name, damage):
    run.save(1)
    expected = run.values()
    damage(run.save(2) / name)
    manifest = run.checkpoints.restore_latest(report=messages.append)
    assert manifest["step"] == 1
    assert_same_tensors(run.values(), expected)
    (message,) = messages
    assert message.startswith(f"skipped {run.checkpoints.directory / 'step-00000002'}: its ")
    assert name in message
    assert "\n" not in message


def test_one_flipped_bit_is_found_wherever_it_is(run):
    path = run.save(1)
    generator = np.random.default_rng(0)
    for name in FILES:
        whole = (path / name).read_bytes()
        for _ in range(30):
            content = np.frombuffer(whole, np.uint8).copy()
            content[generator.integers(len(content))] ^= 1 << generator.integers(8)
            (path / name).write_bytes(content.tobytes())
            with pytest.raises(RunError, match=name.replace(".", r"\.")):
                run.checkpoints.restore_latest()
        (path / name).write_bytes(whole)
    assert run.checkpoints.restore_latest()["step"] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "it has no format"),
        ('{"format": 1, "step": 2}', "it has no data_fingerprint"),
        ('{"format": 2, "step": 2, "data_fingerprint": ""}', "it has no files"),
        ('{"format": 2, "step": "2", "files": {}, "tensors": {}}', "its step is of another kind"),
        ('{"format": [2], "step": 2}', "its format is of another kind"),
        ('{"format": 3, "step": 2}', "has format 3, this program reads 1 and 2"),
        ('{"format": 1, "step": 5, "data_fingerprint": ""}', "is that of step 5"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_manifest_that_is_none_is_told_in_a_line(run, messages, text, problem):
    run.save(1)
    (run.save(2) / "manifest.json").write_text(text)
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    (message,) = messages
    assert "its manifest.json " in message and problem in message
    assert "\n" not in message


OF_ANOTHER_KIND = {
    "step": [True, -1, 2.0, "2", None, [2], 10**30],
    "data_fingerprint": [None, 5, ["abc"], "a\nb"],
    "files": [[], {"tensors.index": 3}, {"\0": ""}],
    "tensors": [[], {EMBEDDING: 3}, {EMBEDDING: None}, {"\ud800": ""}, {"a": "\x1b[2J"}],
    "config": [None, "seed", ["seed"]],
    "environment": [None, ["python"], {"gpus": [{}]}, {"processor_flags": ["avx", 2]}],
    "replicas": ["2", True],
    "elapsed_seconds": ["1", None, True, float("nan"), float("inf"), 10**400],
    "bad_steps": ["3", [3], {"in_a_row": "3"}, {"in_a_row": None}, {"in_all": -1}],
    "classes": ["0", {"0": 1}, [0, 1]],
    "mean": [0.5, ["0.5"], [float("nan")]],
    "deviation": [None, [True], [10**400]],
}


@pytest.mark.parametrize("key", OF_ANOTHER_KIND)
def test_a_value_of_another_kind_in_a_manifest_is_told_in_a_line(run, messages, key):
    run.save(1)
    path = run.save(2)
    manifest = json.loads((path / "manifest.json").read_text())
    for value in OF_ANOTHER_KIND[key]:
        # A forger would write its SHA-256 too, but it is not what is looked at first.
        (path / "manifest.json").write_text(json.dumps(manifest | {key: value}))
        assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
        told = f"skipped {path}: its manifest.json is damaged (its {key} is of another kind)"
        assert messages == [told]
        messages.clear()


@pytest.mark.parametrize("files", [{"": ""}, {"..": ""}, {"x": ""}])
def test_files_that_a_manifest_makes_up_are_told_in_a_line(run, messages, files):
    run.save(1)
    path = run.save(2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    (message,) = messages
    assert message.startswith(f"skipped {path}: its ") and "\n" not in message


def test_the_tensors_that_a_manifest_lists_are_compared_before_any_is_read(run, monkeypatch):
    """A file of a foreign checkpoint is not opened where its manifest already says that it does not fit."""
    path = run.save(1)
    tensors = json.loads((path / "manifest.json").read_text())["tensors"]
    rewrite_manifest(path, {"tensors": tensors | {EMBEDDING: "float32[7000000000,6]"}})
    monkeypatch.setattr(tf.train, "load_checkpoint", None)
    with pytest.raises(RunError, match=r"embeddings is float32\[7000000000,6\], expected"):
        run.checkpoints.restore_latest()


def test_tensors_that_are_not_those_of_their_manifest_are_refused(run, tmp_path):
    path = run.save(1)
    other = Run(tmp_path / "other", dim=4).save(1)
    for file in other.glob("tensors*"):
        shutil.copy(file, path)
    files = json.loads((other / "manifest.json").read_text())["files"]
    rewrite_manifest(path, {"files": files})
    with pytest.raises(RunError, match=r"float32\[7,4\], expected float32\[7,6\]"):
        run.checkpoints.restore_latest()


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_that_was_written_once_still_loads(version):
    """It was made by `Run(...).save(3)` of this file, when that format was the one written."""
    kept = Path(__file__).with_name(f"format_{version}")
    run = Run(kept, seed=3)
    expected = run.values()
    run.fill(0)
    manifest = run.checkpoints.restore_latest()
    assert (manifest["format"], manifest["step"], manifest["data_fingerprint"]) == (version, 3, "abc")
    assert_same_tensors(run.values(), expected)


@pytest.mark.parametrize(
    ("name", "damage"), [("tensors.index", truncate), ("tensors.data-00000-of-00001", flip_bit)]
)
def test_damage_to_a_checkpoint_of_format_1_is_found_by_tensorflow(tmp_path, name, damage):
    path = shutil.copytree(Path(__file__).with_name("format_1"), tmp_path / "run")
    damage(path / "checkpoints" / "step-00000003" / name)
    with pytest.raises(RunError, match="its tensors cannot be read"):
        Run(path).checkpoints.restore_latest()
