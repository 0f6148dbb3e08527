"""What becomes of a whole run when something goes wrong: it ends as it would have, or a line says why not."""

import functools
import json
import re
import shutil

import pytest

from tests.runs import (
    assert_same_tensors,
    copy_of,
    refusal,
    rewrite_manifest,
    rows_of,
    tensors_of,
)


@pytest.fixture
def refused(workplace, capsys):
    return functools.partial(refusal, workplace, capsys)


def cut_back(run, name):
    """A copy of a finished run that has come to step 20 alone, and its checkpoint."""
    run = copy_of(run, name)
    shutil.rmtree(run / "checkpoints" / "step-00000030")
    (run / "summary.json").unlink()
    return run, run / "checkpoints" / "step-00000020"


def assert_ends_as(run, whole):
    assert_same_tensors(tensors_of(run), tensors_of(whole))
    assert rows_of(run) == rows_of(whole)


def test_a_manifest_says_what_was_seen_and_on_what(trained_run):
    manifest = json.loads((trained_run / "checkpoints" / "step-00000020" / "manifest.json").read_text())
    (row,) = (row for row in rows_of(trained_run) if row["step"] == 20)
    assert (manifest["step"], manifest["tokens"]) == (20, 20 * 4 * 16)
    assert manifest["validation_loss"] == row["validation_loss"]
    assert {"python", "tensorflow", "keras", "numpy", "threads"} <= manifest["environment"].keys()
    assert len(manifest["config_sha256"]) == len(manifest["data_fingerprint"]) == 64
    assert (manifest["config"]["model.dropout"], manifest["config"]["seed"]) == (0.1, 0)
    assert "log_every" not in manifest["config"]


def test_a_run_of_format_1_goes_on(trained_run, workplace):
    """It records neither hashes nor tensors, config and environment."""
    run, path = cut_back(trained_run, "format-1")
    manifest = json.loads((path / "manifest.json").read_text())
    kept = {key: manifest[key] for key in ("step", "data_fingerprint", "elapsed_seconds")}
    (path / "manifest.json").write_text(json.dumps({"format": 1, **kept}))
    (path / "manifest.sha256").unlink()
    assert workplace.train(f"name={run.name}") == 0
    assert_ends_as(run, trained_run)


def test_a_checkpoint_of_another_config_than_the_recorded_one_is_refused(refused, trained_run):
    run, path = cut_back(trained_run, "edited")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("seed: 0", "seed: 5"))
    told = f"{path.parent} is a run of another config: seed is 0 there, 5 here. Use name= for another run."
    assert refused("name=edited", "seed=5", label="config error") == [told]
    (run / "config.yaml").unlink()
    assert refused("name=edited", "seed=5", label="config error") == [told]


def test_a_run_does_not_begin_anew_when_all_its_checkpoints_are_damaged(refused, trained_run):
    run = copy_of(trained_run, "all-damaged")
    for path in run.glob("checkpoints/*/manifest.json"):
        path.unlink()
    (line,) = refused("name=all-damaged")
    assert line == (
        f"no checkpoint can be restored: {run}/checkpoints/step-00000030: its manifest.json is missing "
        "(and 1 earlier). Use name= for a new run."
    )


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({}, None),
        ({"threads": 64, "tensorflow": "2.20.0"}, r"tensorflow 2.20.0, now .*; threads 64, now \d+"),
        ({"processor_flags": ["avx5"]}, r"processor_flags now without avx5"),
        ({"XLA_FLAGS": "--fast"}, "XLA_FLAGS --fast, now None"),
    ],
)
def test_a_run_that_goes_on_elsewhere_says_so_in_a_line(trained_run, workplace, capsys, recorded, told):
    run, path = cut_back(trained_run, f"elsewhere-{len(recorded)}-{bool(told)}-{next(iter(recorded), None)}")
    environment = json.loads((path / "manifest.json").read_text())["environment"]
    rewrite_manifest(path, {"environment": environment | recorded})
    assert workplace.train(f"name={run.name}") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: the last bits")]
    assert len(lines) == (told is not None)
    assert all(re.search(told, line) for line in lines)
