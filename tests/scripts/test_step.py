"""Choice of a checkpoint by `--step`."""

import json

import pytest

from scripts import evaluate, export, generate, passkey, predict, visualize
from system.command import run_command
from tests.run_helpers import copy_of

LOSSES = {5: None, 10: 1.0, 20: 1.5, 30: 2.25}


@pytest.fixture(scope="module")
def text_run(trained_run):
    """A finished run with the checkpoints of steps 20 and 30, whose held-out loss was lowest at step 10."""
    run = copy_of(trained_run, "steps")
    rows = [{"step": step, "validation_loss": loss} for step, loss in LOSSES.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def call(main, *arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


@pytest.mark.parametrize(("option", "step"), [((), 30), (("--step", "20"), 20), (("--step", "best"), 20)])
def test_the_chosen_checkpoint_is_evaluated_and_noted(eagerly, text_run, capsys, option, step):
    assert call(evaluate.main, text_run, "--json", *option) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)[0]["step"] == step
    assert f"note: {text_run}: using the checkpoint of step {step}\n" in output.err


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (evaluate.main, ()),
        (evaluate.main, ("--windows", "8")),
        (export.main, ("--format", "keras", "--output", "exported")),
        (generate.main, ("--prompt", "a")),
        (passkey.main, ()),
        (visualize.main, ("--output", "figures")),
    ],
)
def test_a_step_without_a_checkpoint_is_an_error_that_lists_those_with_one(
    text_run, tmp_path, monkeypatch, capsys, main, arguments
):
    monkeypatch.chdir(tmp_path)
    assert call(main, text_run, *arguments, "--step", "25") == 2
    problem = f"error: {text_run} has no checkpoint of step 25; available steps: 20, 30\n"
    assert capsys.readouterr().err == problem


def test_the_best_checkpoint_needs_a_held_out_loss(untrained, capsys):
    path = untrained[0]
    assert call(predict.main, path, "image.png", "--step", "best") == 2
    assert capsys.readouterr().err == f"error: {path} has no held-out loss of a kept checkpoint; kept: [7]\n"
    with pytest.raises(SystemExit, match="2"):
        predict.main([str(path), "image.png", "--step", "last"])
    assert "--step: must be a step, latest or best, got 'last'" in capsys.readouterr().err
