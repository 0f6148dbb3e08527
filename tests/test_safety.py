"""What becomes of a whole run when something goes wrong: it ends as it would have, or a line says why not."""

import functools
import json
import re
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from runs import image_task
from runs import report as reporting
from tests.comparison import rows_of, tensors_of
from tests.run_helpers import (
    WITHOUT_SAMPLES,
    assert_same_tensors,
    contents_of,
    copy_of,
    refusal,
    rewrite_manifest,
)
from training import hardware
from training.run_log import RunLog


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


def test_a_checkpoint_of_another_config_than_the_recorded_one_is_refused(refused, trained_run):
    run, _ = cut_back(trained_run, "edited")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("seed: 0", "seed: 5"))
    told = f"{run} is a run of another config: seed is 0 there, 5 here. Use name= for another run."
    assert refused("name=edited", "seed=5", label="config error") == [told]
    (run / "config.yaml").unlink()
    assert refused("name=edited", "seed=5", label="config error") == [told]


def test_a_run_does_not_begin_anew_when_all_its_checkpoints_are_damaged(refused, trained_run):
    run = copy_of(trained_run, "all-damaged")
    for path in run.glob("checkpoints/*/manifest.json"):
        path.unlink()
    (line,) = refused("name=all-damaged")
    assert line == (
        f"no checkpoint can be restored: {run}/checkpoints/step-00000030: manifest.json is missing "
        "(and 1 earlier). To start a new run, use name=NEW."
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
    assert workplace.train(f"name={run.name}", WITHOUT_SAMPLES) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: the last bits")]
    assert len(lines) == (told is not None)
    assert all(re.search(told, line) for line in lines)


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the images of the steps in this set NaN."""
    steps, intact = set(), image_task.image_training_dataset

    def dataset(*args, start_step, **options):
        def poison(index, batch):
            inputs, targets = batch
            is_bad = tf.reduce_any([index + start_step == step for step in sorted(steps)])
            return tf.where(is_bad, np.nan, 1.0) * inputs, targets

        return intact(*args, start_step=start_step, **options).enumerate().map(poison)

    monkeypatch.setattr(image_task, "image_training_dataset", dataset)
    return steps


def test_a_batch_that_makes_the_loss_nan_is_skipped(poisoned, image_workplace, capsys):
    poisoned |= {2, 5, 6}
    assert image_workplace.train("name=skips", "log_every=1", "max_bad_steps=3") == 0
    assert "step 3: loss nan, gradient norm nan; skipped" in capsys.readouterr().out
    whole = image_workplace.outputs / "skips"
    rows = rows_of(whole)
    assert {row["step"]: row["skipped_steps"] for row in rows if "skipped_steps" in row} == {3: 1, 6: 2, 7: 3}
    assert tensors_of(whole)["optimizer/adamw/iteration"] == 12 - 3
    run = copy_of(whole, "skips-resumed")
    for path in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    (run / "summary.json").unlink()
    assert image_workplace.train("name=skips-resumed", "log_every=1", "max_bad_steps=3") == 0
    assert_ends_as(run, whole)


def test_bad_steps_in_a_row_take_a_run_back_and_nothing_bad_is_on_disk(poisoned, image_workplace, capsys):
    poisoned |= {7, 8, 9, 10}
    for _ in range(2):  # the same command comes to the same end
        assert image_workplace.train("name=back", "checkpoint_every=2", "max_bad_steps=3") == 1
        (line,) = (text for text in capsys.readouterr().err.splitlines() if text.startswith("diverged"))
        assert line.startswith(
            "diverged: step 10: loss nan, gradient norm nan; 3 steps in a row without finite values. "
            "The run is back at its checkpoint of step 6. Try the same command with name=another init_from="
        )
        run = image_workplace.outputs / "back"
        assert max((run / "checkpoints").iterdir()).name == "step-00000006"
        for path in (run / "checkpoints").iterdir():
            tensors = tensors_of(run, step=int(path.name.removeprefix("step-")))
            assert all(np.isfinite(value).all() for value in tensors.values())


@pytest.mark.parametrize("value", [True, False])
def test_deterministic_is_asked_for_before_anything_is_drawn(workplace, monkeypatch, value):
    calls = []
    monkeypatch.setattr(hardware, "make_deterministic", lambda: calls.append("deterministic"))
    monkeypatch.setattr(keras.utils, "set_random_seed", lambda seed: calls.append(seed))
    name = f"name=deterministic-{value}"
    assert workplace.train(name, f"deterministic={str(value).lower()}", "num_steps=1", WITHOUT_SAMPLES) == 0
    assert calls == (["deterministic", 0] if value else [0])


def test_a_run_out_of_time_stops_and_goes_on(trained_run, workplace, capsys):
    """Each start trains for a step at least."""
    codes = [workplace.train("name=minutes", "max_minutes=1e-9") for _ in range(2)]
    assert codes == [75, 75]
    assert "stopped after step 2, saved. The same command resumes from there." in capsys.readouterr().out
    assert workplace.train("name=minutes") == 0
    assert_ends_as(workplace.outputs / "minutes", trained_run)


def test_a_disk_that_fills_up_during_a_save_costs_no_checkpoint(trained_run, workplace, capsys):
    """A limit on the size of files fails each write past it, as a full disk does."""
    run, path = cut_back(trained_run, "full-disk")
    before = contents_of(run / "checkpoints")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        assert workplace.train("name=full-disk") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"error: cannot write the checkpoint of step 30 in {path.parent} \(.*too large\); .*", line
    )
    assert line.endswith(
        "earlier checkpoints are unchanged. Free some space and run the same command to resume."
    )
    assert contents_of(run / "checkpoints") == before
    assert workplace.train("name=full-disk") == 0
    assert_ends_as(run, trained_run)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_directory_removed_while_running_is_told_in_a_line_and_not_made_anew(
    trained_run, workplace, monkeypatch, capsys, is_replaced
):
    run, _ = cut_back(trained_run, f"removed-{is_replaced}")

    def remove(log, seconds, loss):
        shutil.rmtree(run, ignore_errors=True)
        if is_replaced:
            run.mkdir(exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step_took", remove)
        assert workplace.train(f"name={run.name}", "log_every=100") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run} was removed or replaced while this run was writing to it.")
    assert run.exists() == is_replaced
    assert not is_replaced or list(run.iterdir()) == []


def test_pictures_that_cannot_be_drawn_do_not_stop_a_run(image_workplace, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reporting, "plot_loss", fail)
    monkeypatch.setattr(image_task, "plot_predictions", fail)
    monkeypatch.setattr(tf.summary, "scalar", fail)
    assert image_workplace.train("name=undrawn", "sample_every=3") == 0
    output = capsys.readouterr()
    run = image_workplace.outputs / "undrawn"
    assert output.err.splitlines() == [
        f"note: cannot write {run / name} (No space left on device); the run continues without it."
        for name in ("tensorboard", "predictions.png", "loss.png")
    ]
    assert f"wrote {run / 'summary.json'}, {run / 'confusion.png'}\n" in output.out
