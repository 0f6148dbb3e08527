"""The evaluation command on trained runs, and the list of the commands."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from scripts.__main__ import main as list_commands
from scripts.evaluate import main

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_evaluate_gives_the_loss_of_the_summary(trained_run, run):
    code, output, errors = run(main, trained_run, "--json")
    assert code == 0
    assert all(line.startswith("tokenizing ") for line in errors)  # another test deletes the cache
    (result,) = json.loads(output)
    summary = json.loads((trained_run / "summary.json").read_text())
    assert result["run"] == str(trained_run)
    assert (result["step"], result["context_length"]) == (30, 16)
    assert result["parameters"] == summary["parameters"]
    assert result["nats_per_token"] == pytest.approx(summary["validation_loss"], abs=1e-6)
    assert result["bits_per_byte"] == pytest.approx(summary["bits_per_byte"], abs=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(summary["validation_loss"]), rel=1e-6)


def test_evaluate_prints_one_table_for_each_task(eagerly, trained_run, untrained, run):
    _, output, _ = run(main, trained_run, trained_run, untrained[0])
    text, images = output.split("\n\n")
    *_, first, second = text.splitlines()
    assert [row.split()[0] for row in (first, second)] == [str(trained_run)] * 2
    summary = json.loads((trained_run / "summary.json").read_text())
    assert f"{summary['validation_loss']:.4f}" in first.split()
    *headers, row = images.splitlines()
    assert {"top", "5", "accuracy"} <= set(" ".join(headers).replace("-", " ").split())
    assert row.split()[0] == str(untrained[0])


def test_evaluate_notes_text_that_has_changed(eagerly, trained_run, workplace, run):
    content, times = workplace.text.read_bytes(), workplace.text.stat()
    try:
        workplace.text.write_bytes(content + b"one more line\n")
        code, output, errors = run(main, trained_run, "--json")
    finally:
        workplace.text.write_bytes(content)
        os.utime(workplace.text, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (code, json.loads(output)[0]["step"]) == (0, 30)
    assert any(f"{trained_run} was trained on data that differ" in line for line in errors)


def test_the_scripts_package_lists_its_commands(capsys):
    list_commands()
    entries = capsys.readouterr().out.partition("\n\n")[2]
    names = re.findall(r"^ *(\w+)  +\w", entries, re.MULTILINE)
    assert names == sorted(path.stem for path in SCRIPTS.glob("*.py") if not path.stem.startswith("_"))
