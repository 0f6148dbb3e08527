"""Table of runs, and the command that prints it."""

import json
import os

import pytest
from filelock import FileLock

from configs.compose import save_config
from configs.run_table import FACTS, describe_run, differing_keys, format_runs
from configs.schema import parse_config
from scripts.list_runs import main
from system.command import run_command
from system.text import LINE_WIDTH


def make_run(path, *rows, checkpoint=None, complete=False, **config):
    path.mkdir(parents=True)
    save_config(parse_config({"name": path.name, "num_steps": 2000, **config}), path / "config.yaml")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{damaged")
    if checkpoint:
        (path / "checkpoints" / f"step-{checkpoint:08d}").mkdir(parents=True)
        (path / "checkpoints" / f"step-{checkpoint + 1:08d}.partial").mkdir()
    if complete:
        (path / "summary.json").write_text("{}")


@pytest.fixture
def outputs(tmp_path):
    """Five runs, two of which are training, one before its first checkpoint, and a folder that is none."""
    rows = {"step": 500, "validation_loss": 2.5, "elapsed_seconds": 61}, {"step": 900, "loss": 2.0}
    make_run(tmp_path / "running", *rows, checkpoint=500, seed=3)
    last = {"step": 2000, "validation_loss": 1.25, "elapsed_seconds": 3700.5}
    make_run(tmp_path / "whole", *rows, last, checkpoint=2000, complete=True)
    make_run(tmp_path / "stopped", *rows, checkpoint=750, optimizer={"learning_rate": 1e-5})
    (tmp_path / "damaged" / "checkpoints" / "step-00000005").mkdir(parents=True)
    for name in ("figures", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "stopped" / "summary.json").touch()  # a crash may leave it empty
    os.mkfifo(tmp_path / "stopped" / ".lock")  # to open it blocks
    (tmp_path / "new" / "metrics.jsonl").write_text('{"step": 40, "loss": 3.0}')
    with FileLock(tmp_path / "running" / ".lock"), FileLock(tmp_path / "new" / ".lock"):
        yield tmp_path


def test_runs_are_listed_by_loss_with_their_state_and_differing_keys(outputs, capsys):
    assert run_command(lambda: main([str(outputs)])) == 0
    output, errors = capsys.readouterr()
    assert [line.split() for line in output.splitlines()] == [
        ["name", "state", "step", "loss", "time", "seed", "learning", "rate"],
        ["whole", "complete", "2,000/2,000", "1.2500", "1:01:40", "0", "0.003"],
        *sorted(
            [
                ["running", "running", "900/2,000", "2.5000", "1:01", "3", "0.003"],
                ["stopped", "stopped", "750/2,000", "2.5000", "1:01", "0", "1e-05"],
            ],
            key=lambda row: output.index(row[0]),
        ),
        ["damaged", "damaged", "-", "-", "-", "-", "-"],
        ["new", "running", "40", "-", "-", "-", "-"],
    ]
    path = outputs / "damaged" / "config.yaml"
    assert errors == f"note: {path} cannot be read (No such file or directory)\n"
    assert run_command(lambda: main([str(outputs / "whole"), "--json"])) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["name"], run["loss"], run["config"]["model.dim"]) == ("whole", 1.25, 128)


@pytest.mark.parametrize(("name", "problem"), [("nothing", "is not a directory"), ("figures", "Train one")])
def test_a_folder_without_runs_is_an_error(outputs, capsys, name, problem):
    assert run_command(lambda: main([str(outputs / name)])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(outputs / name) in line and problem in line


def test_a_table_of_different_runs_fits_and_counts_the_keys_without_a_column(tmp_path):
    make_run(tmp_path / f"a-{'long' * 20}-name", {"step": 9, "validation_loss": 1.0, "accuracy": 0.5})
    place = str(tmp_path / ("p" * 40))
    make_run(tmp_path / "b", data={"source": "text_files", "path": place}, model={"rope": {"theta": 5e5}})
    runs = [describe_run(path) for path in sorted(tmp_path.iterdir())]
    keys = differing_keys([run["config"] for run in runs])
    assert keys[:2] == ["model.rope.theta", "data.source"]
    assert "data.path" in keys and "name" not in keys
    *lines, more = format_runs(runs, keys).splitlines()
    assert max(map(len, lines)) <= LINE_WIDTH
    *headers, first, _ = lines
    assert {"accuracy", "theta"} <= set(" ".join(headers).split())
    assert first.split()[0].startswith("a-longlong") and "\N{HORIZONTAL ELLIPSIS}" in first
    count = int(more.split()[0])
    assert 0 < count < len(keys)
    assert more == f"{count} more keys differ: scripts.list_runs --json prints all"


def test_keys_with_the_name_of_another_column_keep_their_whole_name():
    facts = dict.fromkeys(FACTS) | {"name": "a", "state": "complete"}
    config = {"model.rope.factor": 2, "x.factor": None, "optimizer.name": "muon", "model.dim": 8}
    header, row = format_runs([facts | {"config": config}], list(config)).splitlines()
    assert header.split()[-4:] == ["factor", "x.factor", "optimizer.name", "dim"]
    assert row.split()[-4:] == ["2", "null", "muon", "8"]


def test_runs_with_other_tokenizers_are_sorted_by_bits_per_byte():
    runs = [
        dict.fromkeys(FACTS) | {"name": name, "loss": loss, "bits_per_byte": bits, "config": {}}
        for name, loss, bits in (("bytes", 1.25, 1.75), ("subwords", 3.5, 1.5))
    ]
    header, *rows = format_runs(runs, []).splitlines()
    assert header.split() == ["name", "loss", "bits/byte"]
    assert [row.split()[0] for row in rows] == ["subwords", "bytes"]
