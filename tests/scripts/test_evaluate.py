import json
import math
import os

import pytest

from scripts.evaluate import main
from system.command import run_command


def evaluate(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


def test_the_loss_is_that_of_the_summary(trained_run, capsys):
    assert evaluate(trained_run, "--json") == 0
    output = capsys.readouterr()
    (result,) = json.loads(output.out)
    summary = json.loads((trained_run / "summary.json").read_text())
    assert result["run"] == str(trained_run)
    assert (result["step"], result["context_length"]) == (30, 16)
    assert result["parameters"] == summary["parameters"]
    assert result["nats_per_token"] == pytest.approx(summary["validation_loss"], abs=1e-6)
    assert result["bits_per_byte"] == pytest.approx(summary["bits_per_byte"], abs=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(summary["validation_loss"]), rel=1e-6)
    assert output.err == ""


def test_runs_are_the_rows_of_a_table(trained_run, capsys):
    assert evaluate(trained_run, trained_run) == 0
    headers, *rows = capsys.readouterr().out.splitlines()
    assert headers.split()[:2] == ["run", "step"]
    assert len(rows) == 2
    assert rows[0].split()[0] == str(trained_run)
    summary = json.loads((trained_run / "summary.json").read_text())
    assert f"{summary['validation_loss']:.4f}" in rows[0].split()


def test_another_text_than_that_of_the_run_is_said(trained_run, workplace, capsys):
    content, times = workplace.text.read_bytes(), workplace.text.stat()
    try:
        workplace.text.write_bytes(content + b"one more line\n")
        assert evaluate(trained_run, "--json") == 0
    finally:
        workplace.text.write_bytes(content)
        os.utime(workplace.text, ns=(times.st_atime_ns, times.st_mtime_ns))
    output = capsys.readouterr()
    assert json.loads(output.out)[0]["step"] == 30
    assert f"note: {trained_run} was trained on other data" in output.err


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert evaluate(tmp_path) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {tmp_path} is not a run directory")
