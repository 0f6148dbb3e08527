"""Faults during a run: it ends with the same bits as without them, or with a one-line error."""

import json
import resource
import shutil
from unittest.mock import Mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.compose import load_config
from runs import checkpointing, image_task
from runs import run as running
from runs.load import load_run_config
from scripts.evaluate import main as evaluate
from scripts.generate import main as generate
from system.command import run_command
from tests.comparison import rows_of, tensors_of
from tests.run_helpers import (
    WITHOUT_SAMPLES,
    assert_mentions,
    assert_same_tensors,
    contents_of,
    copy_of,
    rewrite_manifest,
)
from training.checkpoints import Checkpoints
from training.run_log import RunLog


def cut_back(run, name):
    """A copy of a finished run without what it wrote after its checkpoint at step 20; and that checkpoint."""
    run = copy_of(run, name)
    shutil.rmtree(run / "checkpoints" / "step-00000030")
    (run / "summary.json").unlink()
    return run, run / "checkpoints" / "step-00000020"


def assert_ends_as(run, whole):
    assert_same_tensors(tensors_of(run), tensors_of(whole))
    assert rows_of(run) == rows_of(whole)


def test_config_of_a_checkpoint_is_checked_without_the_recorded_config(refused, trained_run):
    run, _ = cut_back(trained_run, "edited")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").unlink()
    (line,) = refused("name=edited", "seed=5", label="config error")
    assert_mentions(line, str(run), "seed", "0", "5", "name=")
    (run / "config.yaml").write_text(config.replace("seed: 0", "seed: 5"))
    for changes in ("seed=5", "seed=0"):
        (line,) = refused("name=edited", changes, label="config error")
        assert_mentions(line, f"{run / 'config.yaml'} differs from", "seed is 0 there, 5 here", "Delete it")


def without_key(text, key):
    """YAML without the line of a key."""
    return "".join(line for line in text.splitlines(True) if not line.strip().startswith(f"{key}:"))


def rewrite_config(run, change):
    path = run / "config.yaml"
    path.write_text(change(path.read_text()))
    return path


def test_a_config_other_than_that_of_the_checkpoints_is_refused_by_every_command(
    workplace, trained_run, refused, capsys
):
    """Deleting `theta` from config.yaml, or half of the file, would give the figures of another model."""
    command = ("name=theta", "model.rope.theta=2", "num_steps=1", WITHOUT_SAMPLES)
    assert workplace.train(*command) == 0
    run = workplace.outputs / "theta"
    intact = (run / "config.yaml").read_text()
    half, cut_line = intact[: len(intact) // 2], intact.partition("  rope")[0]
    differs = "differs from the checkpoints of its run: "
    for damaged, problem in (
        (without_key(intact, "theta"), f"{differs}model.rope.theta is 2.0 there"),
        (cut_line + "  rope:\n    the\n    x: 1", "is damaged, or of another version ("),
        (intact.partition("precision")[0], f"{differs}precision is float32 there"),
        (half, "config.yaml "),
        ("", "is damaged, or of another version (holds no keys). "),
    ):
        (run / "config.yaml").write_text(damaged)
        lines = [refused(*command, label="config error")]
        lines.append(refused("name=child", f"init_from={run}", WITHOUT_SAMPLES, label="config error"))
        for main, *options in ((evaluate,), (generate, "--prompt", "a")):
            assert run_command(lambda main=main, options=options: main([str(run), *options])) == 2
            lines.append(capsys.readouterr().err.removeprefix("config error: ").splitlines())
        assert lines == [lines[0]] * 4
        assert_mentions(lines[0][0], f"{run / 'config.yaml'} ", problem, "Delete it and repeat the command")
    (run / "config.yaml").unlink()
    assert workplace.train(*command) == 0
    assert (run / "config.yaml").read_text() == intact


def test_a_run_that_has_lost_its_checkpoints_does_not_start_again(trained_run, refused, capsys):
    run = copy_of(trained_run, "lost")
    shutil.rmtree(run / "checkpoints")
    problem = f"{run} has no checkpoint: restore {run / 'checkpoints'}"
    (line,) = refused("name=lost")
    assert_mentions(line, problem, "delete the run", "name=NEW")
    assert run_command(lambda: evaluate([str(run)])) == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")
    (line,) = refused("name=child", f"init_from={run}", WITHOUT_SAMPLES)
    assert line.startswith(problem)


def test_a_run_killed_before_its_first_checkpoint_starts_again_with_any_config(workplace, monkeypatch):
    kill = Mock(side_effect=SystemExit(9))
    command = ("name=early", "num_steps=2", WITHOUT_SAMPLES)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", kill)
        with pytest.raises(SystemExit):
            workplace.train(*command, "log_every=1")
    run = workplace.outputs / "early"
    assert [row["step"] for row in rows_of(run)] == [1, 2] and not (run / "config.yaml").exists()
    with monkeypatch.context() as patch:  # after the checkpoint is complete
        patch.setattr(checkpointing, "save_config", kill)
        with pytest.raises(SystemExit):
            workplace.train(*command, "seed=3")
    assert not (run / "config.yaml").exists()
    assert workplace.train(*command, "seed=3") == 0
    assert load_config(run / "config.yaml").seed == 3


@pytest.mark.parametrize("damage", ["", "[1]", '{"files": ["loss.png"]}'])
def test_a_damaged_summary_or_a_missing_picture_is_written_again(trained_run, workplace, capsys, damage):
    run = copy_of(trained_run, f"unfinished{len(damage)}")
    (run / "summary.json").write_text(damage)
    (run / "loss.png").unlink()
    assert workplace.train(f"name={run.name}") == 0
    assert "This run is complete" not in capsys.readouterr().out
    expected = json.loads((trained_run / "summary.json").read_text())
    assert json.loads((run / "summary.json").read_text()) == expected | {"name": run.name}
    assert (run / "loss.png").stat().st_size > 0
    assert expected["files"] == ["loss.png", "samples.txt"]


def test_a_key_of_a_later_version_has_its_default(trained_run):
    run, path = cut_back(trained_run, "older")
    config = json.loads((path / "manifest.json").read_text())["config"]
    del config["model.qkv_bias"]
    rewrite_manifest(path, {"config": config})
    rewrite_config(run, lambda text: without_key(text, "qkv_bias"))
    assert not load_run_config(run).model.qkv_bias


def test_consecutive_bad_steps_return_to_a_finite_checkpoint(image_workplace, monkeypatch, capsys):
    """The images are NaN from step 7 on."""
    intact = image_task.image_training_dataset

    def dataset(*args, start_step, **options):
        def poison(index, batch):
            inputs, targets = batch
            return tf.where(index + start_step >= 7, np.nan, 1.0) * inputs, targets

        return intact(*args, start_step=start_step, **options).enumerate().map(poison)

    monkeypatch.setattr(image_task, "image_training_dataset", dataset)
    assert image_workplace.train("name=back", "checkpoint_every=2", "max_bad_steps=3", WITHOUT_SAMPLES) == 1
    (line,) = (text for text in capsys.readouterr().err.splitlines() if text.startswith("diverged"))
    assert_mentions(line, "step 10: loss nan, gradient norm nan", "checkpoint of step 6", "init_from=")
    run = image_workplace.outputs / "back"
    assert max((run / "checkpoints").iterdir()).name == "step-00000006"
    for path in (run / "checkpoints").iterdir():
        tensors = tensors_of(run, step=int(path.name.removeprefix("step-")))
        assert all(np.isfinite(value).all() for value in tensors.values())


def test_deterministic_is_enabled_before_the_seed_is_set(workplace, monkeypatch):
    calls = []

    def set_seed(seed):
        calls.append(seed)
        raise SystemExit

    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append("enabled"))
    monkeypatch.setattr(keras.utils, "set_random_seed", set_seed)
    with pytest.raises(SystemExit):
        workplace.train("name=deterministic", "deterministic=true", "seed=5")
    assert calls == ["enabled", 5]


def test_sizes_beyond_the_memory_are_refused_and_half_of_it_is_noted(workplace, capsys, monkeypatch):
    for changes, words in (
        (("num_steps=9223372036854775808",), "num_steps must be <= 2147483647"),
        (("batch_size=1000000000000",), "batch_size must be <= 2147483647"),
        (("model.dim=1000000000",), "model.dim must be <= 1048576, got 1000000000"),
        (("batch_size=2147483646",), "batches of 34,359,738,336 tokens, take at least 274.9 GB of the"),
        (("model.num_layers=1000000000",), "1,920,000,005,248 weights with optimizer state"),
        (("model.vocab_size=2000000000", "optimizer.name=muon"), "take at least 256.0 GB of the"),
    ):
        assert workplace.train("name=huge", *changes) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert_mentions(line, "config error: ", words)
        assert not (workplace.outputs / "huge").exists()
    monkeypatch.setattr(running, "physical_memory", lambda: 100_000)
    assert workplace.train("name=half", "num_steps=1", WITHOUT_SAMPLES) == 0
    output = capsys.readouterr()
    assert output.err.startswith("note: 7,168 weights")
    assert "learning rate 0.005 (not reached: every step is warm-up)" in output.out


def test_data_and_steps_without_memory_are_one_line_and_record_nothing(image_workplace, capsys, monkeypatch):
    command = ("name=images", "num_steps=1", WITHOUT_SAMPLES)
    assert image_workplace.train(*command, "data.image_size=[9,30000]") == 2
    assert capsys.readouterr().err == "config error: data.image_size must be <= 8192, got 30000\n"
    assert image_workplace.train(*command, "data.image_size=[8192,8192]") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert_mentions(line, "error: out of memory (OOM when allocating tensor with shape[1797,8192,8192,1]")
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step_took", Mock(side_effect=MemoryError("1 TB")))
        assert image_workplace.train(*command, "seed=1") == 2
    assert capsys.readouterr().err == "error: out of memory (1 TB). Choose smaller sizes.\n"
    assert image_workplace.train(*command) == 0
    run = image_workplace.outputs / "images"
    assert run_command(lambda: evaluate([str(run), "--image-size", "8192"])) == 2
    assert "error: out of memory (" in capsys.readouterr().err


def test_full_disk_during_a_save_leaves_the_earlier_checkpoints(trained_run, workplace, capsys):
    """A limit on the file size makes large writes fail as on a full disk."""
    run, path = cut_back(trained_run, "full-disk")
    before = contents_of(run / "checkpoints")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        assert workplace.train("name=full-disk", WITHOUT_SAMPLES) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    assert_mentions(line, "error: cannot write the checkpoint of step 30", str(path.parent), "too large")
    assert contents_of(run / "checkpoints") == before


def test_replaced_run_directory_is_a_one_line_error_and_not_filled(
    trained_run, workplace, monkeypatch, capsys
):
    run, _ = cut_back(trained_run, "replaced")

    def replace(log, seconds, loss):
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step_took", replace)
        assert workplace.train(f"name={run.name}", "log_every=100", WITHOUT_SAMPLES) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert_mentions(line, f"error: {run} was removed or replaced")
    assert list(run.iterdir()) == []


def test_user_without_a_home_directory_gets_a_one_line_error(workplace, capsys, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    places = {"data.path='~/text'": "~/text", "~data.cache_dir": "~/.cache/rope-transformers-tf"}
    for change, place in places.items():
        assert workplace.train("name=homeless", change) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert_mentions(line, f"error: {place}: there is no home directory; set HOME")


def test_unwritable_figures_and_events_do_not_stop_a_run(image_workplace, monkeypatch, capsys):
    fail = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(running, "plot_loss", fail)
    monkeypatch.setattr(image_task, "plot_predictions", fail)
    monkeypatch.setattr(tf.summary, "scalar", fail)
    assert image_workplace.train("name=undrawn", "sample_every=3", "num_steps=4") == 0
    output = capsys.readouterr()
    run = image_workplace.outputs / "undrawn"
    notes = output.err.splitlines()
    for line, name in zip(notes, ("tensorboard", "predictions.png", "loss.png"), strict=True):
        assert_mentions(line, "note: cannot write", str(run / name), "No space left on device")
    assert f"wrote {run / 'summary.json'}, {run / 'confusion.png'}\n" in output.out
