"""Whole runs of train.py, most of them in this process: a tiny model really trains on a real text."""

import functools
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import yaml

from scripts import generate
from tests.comparison import rows_of, tensors_of
from tests.run_helpers import (
    WITHOUT_SAMPLES,
    assert_same_tensors,
    contents_of,
    copy_of,
    refusal,
    start_process,
    wait_for,
)
from training.run_directory import RunDirectory
from training.run_log import RunLog

UNTRAINED_LOSS = np.log(256)


def assert_ends_as(workplace, run, whole):
    """The same command again brings `run` to the end of `whole`, bit for bit."""
    assert workplace.train(f"name={run.name}") == 0
    assert_same_tensors(tensors_of(run), tensors_of(whole))
    assert rows_of(run) == rows_of(whole)
    assert (run / "samples.txt").read_bytes() == (whole / "samples.txt").read_bytes()


def test_a_run_learns(trained_run):
    losses = [row["loss"] for row in rows_of(trained_run)]
    assert losses[0] == pytest.approx(UNTRAINED_LOSS, abs=0.1)
    assert losses[-1] < losses[0] - 0.5
    validation = [row["validation_loss"] for row in rows_of(trained_run) if "validation_loss" in row]
    assert validation == sorted(validation, reverse=True)


def test_a_run_writes_its_files(trained_run):
    assert sorted(path.name for path in trained_run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "loss.png",
        "metrics.jsonl",
        "samples.txt",
        "summary.json",
        "tensorboard",
    ]
    assert [path.name for path in sorted((trained_run / "checkpoints").iterdir())] == [
        "step-00000020",
        "step-00000030",
    ]
    rows = rows_of(trained_run)
    assert [row["step"] for row in rows] == [1, 5, 10, 15, 20, 25, 30]
    assert [row["tokens"] for row in rows] == [row["step"] * 4 * 16 for row in rows]
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 30]
    assert [row["step"] for row in rows if "sample" in row] == [20, 30]
    assert re.findall("--- step (.*) ---", (trained_run / "samples.txt").read_text()) == ["20", "30"]


def test_the_config_is_written_as_it_was_resolved(trained_run):
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    assert (config["precision"], config["compile"]) == ("float32", "graph")
    assert config["model"]["dim"] == 16
    assert config["model"]["rope"]["interpolate_factor"] == 1.0


def test_the_summary_is_that_of_the_last_step(trained_run):
    summary = json.loads((trained_run / "summary.json").read_text())
    assert summary["bits_per_byte"] == pytest.approx(summary["validation_loss"] / np.log(2))
    assert summary["tokens_per_second"] > 0
    assert summary["elapsed_seconds"] > 0
    weights = [value for name, value in tensors_of(trained_run).items() if name.startswith("model/")]
    assert summary["parameters"] == sum(value.size for value in weights)
    last = rows_of(trained_run)[-1]
    assert {key: summary[key] for key in ("step", "tokens", "loss", "validation_loss")} == {
        key: last[key] for key in ("step", "tokens", "loss", "validation_loss")
    }
    assert (summary["name"], summary["precision"], summary["compile"]) == ("whole", "float32", "graph")


def test_a_finished_run_stays_as_it_is(trained_run, workplace, capsys):
    before = contents_of(trained_run)
    assert workplace.train("name=whole") == 0
    assert "This run is complete" in capsys.readouterr().out
    assert contents_of(trained_run) == before


def test_a_run_that_was_asked_to_stop_saves_and_ends_as_one_that_was_not(trained_run, workplace):
    run = workplace.outputs / "stopped"
    with start_process(workplace, f"name={run.name}", "checkpoint_every=1") as process:
        wait_for(run / "checkpoints" / "step-00000001", process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 143
    step = int(re.search(r"stopped after step (\d+), saved. The same command resumes from there", output)[1])
    assert step < 30
    assert (run / "checkpoints" / f"step-{step:08d}").exists()
    assert errors.strip() == "stopping after this step; once more to stop at once"
    assert not (run / "summary.json").exists()
    assert_ends_as(workplace, run, trained_run)


def test_a_run_that_nobody_reads_any_more_goes_on_and_saves_when_asked_to_stop(workplace):
    """As Ctrl-C does to `python train.py 2>&1 | tee log`, whose tee dies of it at once."""
    run = workplace.outputs / "unread"
    with start_process(workplace, f"name={run.name}", "num_steps=1000000", "log_every=1") as process:
        wait_for(run / "metrics.jsonl", process)
        process.stdout.close()
        process.stderr.close()
        wait_for(run / "checkpoints" / "step-00000010", process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
    (row,) = rows_of(run)[-1:]
    assert (run / "checkpoints" / f"step-{row['step']:08d}").exists()


@pytest.mark.parametrize(
    "options", [("precision=mixed_bfloat16", "compile=graph"), ("precision=float32", "compile=xla")]
)
def test_resume_is_exact_in_other_precisions_and_compilers(workplace, options):
    options = (*options, "num_steps=4", "checkpoint_every=2", WITHOUT_SAMPLES)
    name = options[0].partition("=")[2]
    assert workplace.train(f"name={name}", *options) == 0
    whole = workplace.outputs / name
    run = copy_of(whole, f"resumed-{name}")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    assert workplace.train(f"name={run.name}", *options) == 0
    assert_same_tensors(tensors_of(run, step=4), tensors_of(whole, step=4))
    assert rows_of(run) == rows_of(whole)


def test_a_run_interrupted_while_it_measures_the_end_measures_it_when_started_again(trained_run, workplace):
    run = copy_of(trained_run, "measured")
    for path in (run / "summary.json", run / "loss.png"):
        path.unlink()
    assert workplace.train("name=measured") == 0
    assert rows_of(run) == rows_of(trained_run)
    assert json.loads((run / "summary.json").read_text()) == json.loads(
        (trained_run / "summary.json").read_text()
    ) | {"name": "measured"}
    assert (run / "loss.png").exists()


def test_a_damaged_latest_checkpoint_costs_the_steps_since_the_one_before(trained_run, workplace, capsys):
    run = copy_of(trained_run, "damaged")
    (run / "checkpoints" / "step-00000030" / "tensors.index").write_bytes(b"garbage")
    assert_ends_as(workplace, run, trained_run)
    output = capsys.readouterr().out
    assert re.search(r"skipped .*step-00000030: tensors.index is damaged", output)
    assert "resuming after step 20" in output


def test_a_cadence_may_change_in_a_run(trained_run, workplace):
    run = copy_of(trained_run, "cadence")
    assert workplace.train("name=cadence", "log_every=3", "checkpoint_every=5", "keep_checkpoints=1") == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["log_every"] == 3


def test_weights_of_another_run_are_taken_and_nothing_else_of_it(trained_run, workplace, capsys):
    """At a learning rate of nearly nothing, one step leaves the weights as they came."""
    code = workplace.train(
        "name=child",
        f"init_from={trained_run}",
        "context_length=32",
        "model.rope.interpolate_factor=2",
        "model.dropout=0",
        "num_steps=1",
        "optimizer.learning_rate=1e-30",
        "optimizer.weight_decay=0",
        WITHOUT_SAMPLES,
    )
    assert code == 0
    assert f"starting from step 30 of {trained_run}" in capsys.readouterr().out
    parent, child = tensors_of(trained_run), tensors_of(workplace.outputs / "child", step=1)
    assert child.keys() == parent.keys()
    for name, value in child.items():
        if name.startswith("model/"):
            np.testing.assert_array_equal(value, parent[name], err_msg=name)
        else:
            assert (value != parent[name]).any(), name
    assert child["optimizer/adamw/iteration"] == 1


@pytest.fixture
def refused(workplace, capsys):
    return functools.partial(refusal, workplace, capsys)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["model.dimm=3"], "unknown key 'model.dimm'; did you mean 'model.dim'?"),
        (["+typo=1"], "unknown key 'typo'"),
        (["num_steps=many"], "num_steps must be a whole number, got 'many'"),
        (["model.dropout=1.5"], "model.dropout must be >= 0.0 and < 1.0, got 1.5"),
        (["precision=float31"], "precision must be one of auto, float32, mixed_bfloat16; got 'float31'"),
        (["model.dim=6"], "model.dim / num_heads must be even to form rotation pairs, got head_dim 3"),
        (["accumulation_steps=3"], "accumulation_steps must divide batch_size 4, got 3"),
    ],
)
def test_a_wrong_key_or_value_is_told_in_a_line(refused, trained_run, changes, problem):
    (line,) = refused("name=wrong", *changes, label="config error")
    assert line.startswith(problem)


def test_a_wrong_key_in_an_experiment_is_told_in_a_line(refused, trained_run, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nmodel:\n  dimm: 3\n")
    (line,) = refused(f"--config-dir={tmp_path}", "experiment=mine", label="config error")
    assert line == "unknown key 'model.dimm'; did you mean 'model.dim'?"


def test_another_config_in_a_run_directory_is_refused(refused, trained_run):
    (line,) = refused("name=whole", "model.dropout=0.2", "seed=5", "log_every=3", label="config error")
    assert line == (
        f"{trained_run} is a run of another config: seed is 0 there, 5 here; "
        "model.dropout is 0.1 there, 0.2 here. Use name= for another run."
    )


def test_a_run_of_another_model_in_a_run_directory_is_told_by_keys_that_both_have(refused, trained_run):
    text_keys = ("~context_length", "~model.num_kv_heads", "~data", "~data.path", "~data.held_out")
    changes = ("name=whole", "experiment=vit", *text_keys, "~data.cache_dir")
    (line,) = refused(*changes, label="config error")
    assert line.startswith(f"{trained_run} is a run of another config: ")
    assert "context_length is 16 there, null here" in line
    assert "model.architecture is transformer_lm there, axial_vit here" in line
    assert "data.source is text_files there, digits here" in line
    assert "vocab_size" not in line and "patch_size" not in line


def test_a_run_directory_in_use_is_refused(refused, trained_run):
    with RunDirectory(trained_run):
        (line,) = refused("name=whole")
    assert "is in use by another process" in line


def test_fields_of_the_model_that_differ_from_init_from_are_named_at_once(refused, trained_run):
    changes = ("model.dim=32", "model.vocab_size=300", "model.position=none", "context_length=8")
    (line,) = refused("name=other", f"init_from={trained_run}", *changes, label="config error")
    assert line == (
        f"the weights of init_from={trained_run} are of another model: "
        "model.vocab_size is 256 there, 300 here; "
        "model.dim is 16 there, 32 here; model.position is rotary there, none here"
    )


def test_init_from_needs_a_run_directory_with_a_checkpoint(refused, trained_run, tmp_path):
    (line,) = refused("name=new", f"init_from={tmp_path}")
    told = "is not a run directory: it has no config.yaml. Train one: python train.py"
    assert line == f"{tmp_path} {told}"
    shutil.copy(trained_run / "config.yaml", tmp_path)
    (line,) = refused("name=new", f"init_from={tmp_path}")
    assert line == f"{tmp_path} has no checkpoint; expected {tmp_path}/checkpoints/step-*."


def test_a_text_that_cannot_be_used_is_told_in_a_line(refused, trained_run, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("too short")
    for path, problem in (
        ("missing.txt", "does not exist"),
        ("*.md", "matches no file"),
        ("empty.txt", "all empty"),
        ("short.txt", "one window needs 17"),
    ):
        (line,) = refused("name=wrong", f"data.path={tmp_path / path}")
        assert problem in line


def test_a_text_that_changed_since_the_run_began_is_refused(refused, trained_run, workplace):
    content, times = workplace.text.read_bytes(), workplace.text.stat()
    try:
        workplace.text.write_bytes(content + b"one more line\n")
        (line,) = refused("name=whole")
        assert line.startswith("the data have changed since this run began")
    finally:
        workplace.text.write_bytes(content)
        os.utime(workplace.text, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_set_of_tfds_that_cannot_be_had_is_told_in_a_line_and_soon(
    refused, trained_run, tmp_path, monkeypatch
):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where no one listens
    places = ("name=wrong", "~data.path", "data=tfds_text", f"data.data_dir={tmp_path}")
    (line,) = refused(*places, "data.tfds_name=tiny_shakespear")
    assert "did you mean 'tiny_shakespeare'" in line
    started = time.monotonic()
    (line,) = refused(*places, "data.tfds_name=tiny_shakespeare")
    assert "could not be downloaded" in line
    assert time.monotonic() - started < 20


def test_a_place_that_cannot_be_written_is_told_in_a_line(refused, trained_run, tmp_path):
    (tmp_path / "file").touch()
    (line,) = refused("name=run", f"output_dir={tmp_path / 'file'}")
    assert line.startswith(f"cannot write to {tmp_path / 'file' / 'run'} (Not a directory)")


def test_a_full_disk_stops_a_run_with_a_line(trained_run, workplace, monkeypatch, capsys):
    def fill_disk(log, step, metrics):
        raise OSError(28, "No space left on device")

    run = copy_of(trained_run, "full")
    shutil.rmtree(run / "checkpoints" / "step-00000030")
    before = contents_of(run / "checkpoints")
    monkeypatch.setattr(RunLog, "write", fill_disk)
    assert workplace.train("name=full") == 2
    assert capsys.readouterr().err == (
        f"error: cannot write to {run} (No space left on device). Use output_dir= for another place.\n"
    )
    assert contents_of(run / "checkpoints") == before


def test_a_run_that_diverges_stops_with_a_line_and_keeps_its_checkpoints(workplace, capsys):
    code = workplace.train("name=diverged", "optimizer.learning_rate=1e30", "checkpoint_every=1")
    assert code == 1
    (line,) = capsys.readouterr().err.splitlines()
    told = r"diverged: step \d+: .*. The run is back at its checkpoint of step (\d+). Try .* with (name.*)"
    step, advice = re.fullmatch(told, line).groups()
    run = workplace.outputs / "diverged"
    assert advice.startswith(f"name=another init_from={run} optimizer.learning_rate=3e+29 or ")
    tensors = tensors_of(run, step=int(step))
    assert all(np.isfinite(value).all() for value in tensors.values())
    assert max((run / "checkpoints").iterdir()).name == f"step-{int(step):08d}"


ROTATIONS = {
    "xpos": ["model.rope.xpos=true"],
    "yarn": ["model.rope.scaling.type=yarn", "model.rope.scaling.factor=4"],
    "longrope": [
        "model.rope.scaling.type=longrope",
        "model.rope.scaling.factor=2",
        "model.rope.scaling.short_factor=[1,1,1,1]",
        "model.rope.scaling.long_factor=[1,2,2.5,4]",
    ],
    "learned_freq": ["model.rope.learned_freq=true"],
    "partial": ["model.rope.rotary_fraction=0.5", "model.rope.layout=half"],
    "cumulative": ["model.learned_rotations=cumulative"],
    "packed": ["data.reset_positions=true"],
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_each_rotation_trains_resumes_and_generates(workplace, capsys, name):
    changes = [f"name={name}", "num_steps=12", WITHOUT_SAMPLES, *ROTATIONS[name]]
    assert workplace.train(*changes) == 0
    run = workplace.outputs / name
    whole = tensors_of(run, step=12)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "summary.json").unlink()
    assert workplace.train(*changes) == 0
    assert_same_tensors(tensors_of(run, step=12), whole)
    capsys.readouterr()
    generate.main([str(run), "--prompt", "the ", "--length", "20"])
    assert capsys.readouterr().out.startswith("the ")


def test_a_run_with_muon_and_without_samples_resumes(workplace, capsys):
    changes = ["name=muon", "num_steps=12", "optimizer.name=muon", WITHOUT_SAMPLES]
    assert workplace.train(*changes) == 0
    run = workplace.outputs / "muon"
    assert "samples.txt" not in capsys.readouterr().out
    assert not (run / "samples.txt").exists()
    whole = tensors_of(run, step=12)
    assert "optimizer/muon/transformer_lm_block_0_mlp_down_kernel_momentum" in whole
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "summary.json").unlink()
    assert workplace.train(*changes) == 0
    assert_same_tensors(tensors_of(run, step=12), whole)
    assert "resuming after step 10" in capsys.readouterr().out


def test_documents_kept_apart_train_otherwise(workplace):
    """The text is one document: its windows hold a separator only at its ends."""
    first, second = workplace.text.read_text()[:900], workplace.text.read_text()[900:]
    folder = workplace.text.parent / "two"
    folder.mkdir()
    for number, text in enumerate((first, second) * 20):
        (folder / f"{number}.txt").write_text(f"{number}{text[:30]}")
    tensors = []
    for name, value in (("apart", "true"), ("joined", "false")):
        changes = [f"name={name}", "num_steps=2", f"data.path={folder}", f"data.reset_positions={value}"]
        changes.append(WITHOUT_SAMPLES)
        assert workplace.train(*changes) == 0
        tensors.append(tensors_of(workplace.outputs / name, step=2))
    assert any(np.any(tensors[0][key] != tensors[1][key]) for key in tensors[0])


def test_a_scaling_starts_from_the_context_of_the_parent(workplace, trained_run):
    scaling = ["model.rope.scaling.type=yarn", "model.rope.scaling.factor=3"]
    sizes = ["context_length=48", "num_steps=1", WITHOUT_SAMPLES]
    changes = ["name=longer", f"init_from={trained_run}", *sizes, *scaling]
    assert workplace.train(*changes) == 0
    written = yaml.safe_load((workplace.outputs / "longer" / "config.yaml").read_text())
    assert written["model"]["rope"]["scaling"]["original_max_position_embeddings"] == 16
    assert workplace.train(*changes) == 0


def test_a_scaled_run_goes_on_without_its_parent(workplace, trained_run):
    parent = copy_of(trained_run, "parent")
    changes = [
        "name=orphan",
        f"init_from={parent}",
        "context_length=32",
        "num_steps=2",
        WITHOUT_SAMPLES,
        "model.rope.scaling.type=yarn",
        "model.rope.scaling.factor=2",
    ]
    assert workplace.train(*changes) == 0
    shutil.rmtree(parent)
    (workplace.outputs / "orphan" / "summary.json").unlink()
    assert workplace.train(*changes) == 0


def test_a_sweep_runs_each_value_in_a_directory_of_its_own_and_prints_plain_text(workplace):
    changes = ("name=sweep", "model.position=rotary,none", "num_steps=2", WITHOUT_SAMPLES)
    with start_process(workplace, "-m", *changes) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert errors == ""
    assert all(char.isprintable() or char in "\n\t" for char in output)
    runs = sorted(path.name for path in workplace.outputs.glob("sweep*"))
    assert len(runs) == 2
    for run in runs:
        summary = json.loads((workplace.outputs / run / "summary.json").read_text())
        assert summary["step"] == 2
        (row,) = (line for line in output.splitlines()[-3:] if line.startswith(run))
        assert f"{summary['validation_loss']:.4f}" in row
        assert f"next: python -m scripts.generate {workplace.outputs / run}" in output
