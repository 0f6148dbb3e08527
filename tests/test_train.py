"""Runs of train.py on text: a tiny model is trained on a real text, in this process where possible."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import yaml

from scripts import generate
from system.text import format_command
from tests.comparison import rows_of, tensors_of
from tests.run_helpers import (
    WITHOUT_SAMPLES,
    assert_mentions,
    assert_same_tensors,
    contents_of,
    copy_of,
    start_process,
    wait_for,
)
from training.run_log import RunDirectory


def assert_resumes_to(workplace, run, whole):
    """The same command brings `run` to the end of `whole`, bit for bit."""
    assert workplace.train(f"name={run.name}") == 0
    assert_same_tensors(tensors_of(run), tensors_of(whole))
    assert rows_of(run) == rows_of(whole)
    assert (run / "samples.txt").read_bytes() == (whole / "samples.txt").read_bytes()


def test_loss_decreases(trained_run):
    losses = [row["loss"] for row in rows_of(trained_run)]
    vocab_size = json.loads((trained_run / "summary.json").read_text())["vocab_size"]
    assert losses[0] == pytest.approx(np.log(vocab_size), abs=0.1)  # that of an untrained model
    assert losses[-1] < losses[0] - 0.5
    validation = [row["validation_loss"] for row in rows_of(trained_run) if "validation_loss" in row]
    assert validation == sorted(validation, reverse=True)


def test_run_writes_its_files(trained_run):
    assert sorted(path.name for path in trained_run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "loss.png",
        "metrics.jsonl",
        "samples.txt",
        "summary.json",
        "tensorboard",
        "tokenizer.json",
    ]
    checkpoints = sorted(path.name for path in (trained_run / "checkpoints").iterdir())
    assert checkpoints == ["step-00000020", "step-00000030"]
    rows = rows_of(trained_run)
    assert [row["step"] for row in rows] == [1, 5, 10, 15, 20, 25, 30]
    assert [row["tokens"] for row in rows] == [row["step"] * 4 * 16 for row in rows]
    assert [row["step"] for row in rows if "validation_loss" in row] == [10, 20, 30]
    assert [row["step"] for row in rows if "sample" in row] == [20, 30]
    assert re.findall("--- step (.*) ---", (trained_run / "samples.txt").read_text()) == ["20", "30"]


def test_summary_describes_the_last_step(trained_run):
    summary = json.loads((trained_run / "summary.json").read_text())
    evaluations = [row for row in rows_of(trained_run) if "validation_loss" in row]
    ratios = {round(row["bits_per_byte"] / row["validation_loss"], 9) for row in evaluations}
    assert len(ratios) == 1  # of a token and the bytes of the held-out text
    assert summary["bits_per_byte"] * np.log(2) < summary["validation_loss"] / 2  # a token is several bytes
    assert summary["tokens_per_second"] > 0
    assert summary["elapsed_seconds"] > 0
    weights = [value for name, value in tensors_of(trained_run).items() if name.startswith("model/")]
    assert summary["parameters"] == sum(value.size for value in weights)
    last = rows_of(trained_run)[-1]
    for key in ("step", "tokens", "loss", "validation_loss"):
        assert summary[key] == last[key]
    assert (summary["name"], summary["precision"], summary["compile"]) == ("whole", "float32", "graph")


def test_manifest_records_progress_config_and_environment(trained_run):
    manifest = json.loads((trained_run / "checkpoints" / "step-00000020" / "manifest.json").read_text())
    (row,) = (row for row in rows_of(trained_run) if row["step"] == 20)
    assert (manifest["step"], manifest["tokens"]) == (20, 20 * 4 * 16)
    assert manifest["validation_loss"] == row["validation_loss"]
    assert {"python", "tensorflow", "keras", "numpy", "threads"} <= manifest["environment"].keys()
    assert len(manifest["data_fingerprint"]) == 64
    recorded = manifest["config"]
    assert (recorded["model.dropout"], recorded["seed"], recorded["precision"]) == (0.1, 0, "float32")
    assert "log_every" not in recorded


def test_finished_run_is_not_changed(trained_run, workplace, capsys):
    before = contents_of(trained_run)
    assert workplace.train("name=whole") == 0
    assert "This run is complete" in capsys.readouterr().out
    assert contents_of(trained_run) == before


def test_damaged_latest_checkpoint_falls_back_to_the_previous_one(trained_run, workplace, capsys):
    """Also the resume of a text run: dropout, accumulation, metrics and samples are bit-exact."""
    run = copy_of(trained_run, "damaged")
    (run / "checkpoints" / "step-00000030" / "tensors.index").write_bytes(b"garbage")
    assert_resumes_to(workplace, run, trained_run)
    output = capsys.readouterr()
    assert re.search(r"skipped .*step-00000030.*tensors.index", output.err)
    assert "resuming after step 20" in output.out
    assert "last bits" not in output.err


def test_run_interrupted_during_its_final_evaluation_completes_it(trained_run, workplace):
    """Cadences are not part of what a resumed run has to repeat."""
    run = copy_of(trained_run, "measured")
    for path in (run / "summary.json", run / "loss.png"):
        path.unlink()
    cadences = ("log_every=3", "checkpoint_every=5", "keep_checkpoints=1", WITHOUT_SAMPLES)
    assert workplace.train("name=measured", *cadences) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["log_every"] == 3
    assert rows_of(run) == rows_of(trained_run)
    expected = json.loads((trained_run / "summary.json").read_text()) | {"name": "measured"}
    assert json.loads((run / "summary.json").read_text()) == expected
    assert (run / "loss.png").exists()


@pytest.mark.slow
def test_run_with_closed_output_continues_and_saves_on_sigint(workplace):
    """Ctrl-C in `python train.py 2>&1 | tee log` ends tee at once."""
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


SCALING = "model.rope.scaling"
OPTIONS = {
    "combined": f"{SCALING}.type=yarn {SCALING}.factor=4 model.rope.rotary_fraction=0.5 "
    "model.rope.layout=half data.reset_positions=true precision=mixed_bfloat16",
    "xpos": "model.rope.xpos=true",
    "longrope": f"{SCALING}.type=longrope {SCALING}.factor=2 {SCALING}.short_factor=[1,1,1,1] "
    f"{SCALING}.long_factor=[1,2,2.5,4]",
    "learned": "model.rope.learned_freq=true model.learned_rotations=cumulative",
    "adamw": "optimizer.name=adamw data.tokenizer=bytes compile=xla",
}


@pytest.mark.parametrize(
    "name", [name if name == "combined" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS]
)
def test_options_train_resume_exactly_and_generate(workplace, capsys, name):
    changes = [f"name={name}", "num_steps=4", "checkpoint_every=2", WITHOUT_SAMPLES, *OPTIONS[name].split()]
    assert workplace.train(*changes) == 0
    run = workplace.outputs / name
    assert not (run / "samples.txt").exists()
    tensors, rows = tensors_of(run, step=4), rows_of(run)
    assert ("optimizer/adamw" in " ".join(tensors)) == (name == "adamw")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    (run / "summary.json").unlink()
    assert workplace.train(*changes) == 0
    assert "resuming after step 2" in capsys.readouterr().out
    assert_same_tensors(tensors_of(run, step=4), tensors)
    assert rows_of(run) == rows
    if name != "combined":  # the slow tests cover each option
        generate.main([str(run), "--prompt", "the ", "--length", "20"])
        assert capsys.readouterr().out.startswith("the ")


def test_another_config_names_the_keys_that_differ(refused, trained_run):
    changes = {"num_steps=31": "num_steps is 30 there, 31 here", "seed=5": "seed is 0 there, 5 here"}
    for change, words in changes.items():
        (line,) = refused("name=whole", change, label="config error")
        assert_mentions(line, words, "set name=NEW", f"init_from={trained_run}")


def test_other_architecture_in_a_run_directory_is_described_by_shared_keys(refused, trained_run):
    text_keys = ("~context_length", "~model.num_kv_heads", "~data", "~data.path", "~data.held_out")
    changes = ("name=whole", "experiment=vit", *text_keys, "~data.cache_dir")
    (line,) = refused(*changes, label="config error")
    assert_mentions(line, str(trained_run), "context_length", "data.source", "text_files", "digits")
    assert_mentions(line, "model.architecture", "transformer_lm", "axial_vit")
    assert "vocab_size" not in line and "patch_size" not in line


def test_run_directory_in_use_is_refused(refused, trained_run):
    with RunDirectory(trained_run):
        (line,) = refused("name=whole")
    assert "is in use by another process" in line


def test_run_resumes_with_its_text_at_another_place(workplace, trained_run, tmp_path, capsys):
    copy = copy_of(trained_run, "moved-text")
    moved = shutil.copy(workplace.text, tmp_path / "moved.txt")
    assert workplace.train("name=moved-text", f"data.path={moved}") == 0
    assert f"data.path is {workplace.text} there, {moved} here" in capsys.readouterr().err
    assert f"path: {moved}" in (copy / "config.yaml").read_text()  # for scripts.evaluate


def test_changed_text_is_refused(refused, trained_run, workplace):
    content, times = workplace.text.read_bytes(), workplace.text.stat()
    try:
        workplace.text.write_bytes(content + b"one more line\n")
        (line,) = refused("name=whole")
        assert_mentions(line, "data have changed", "name=")
    finally:
        workplace.text.write_bytes(content)
        os.utime(workplace.text, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_diverging_run_returns_to_its_last_finite_checkpoint(workplace, capsys):
    changes = ("optimizer.learning_rate=1e30", "checkpoint_every=1", WITHOUT_SAMPLES)
    assert workplace.train("name=diverged", *changes) == 1
    (line,) = capsys.readouterr().err.splitlines()
    run = workplace.outputs / "diverged"
    assert_mentions(line, "diverged: step", f"name=another init_from={run} optimizer.learning_rate=3e+29")
    step = int(re.search(r"checkpoint of step (\d+)", line)[1])
    assert all(np.isfinite(value).all() for value in tensors_of(run, step=step).values())
    assert max((run / "checkpoints").iterdir()).name == f"step-{step:08d}"


@pytest.mark.slow
def test_sweep_runs_each_value_in_its_own_directory_and_prints_plain_text(workplace):
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
        (row,) = (line for line in output.splitlines()[-3:] if run in line)
        assert f"{summary['validation_loss']:.4f}" in row
        assert "next: " + format_command("-m", "scripts.generate", workplace.outputs / run) in output
