"""Passkey retrieval: training on it, the accuracy of a run, and its heat map."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.compose import load_config
from configs.schema import Config
from data.config import PasskeyConfig
from data.passkeys import Passkeys
from models.config import TransformerLMConfig
from runs import evaluate_passkey
from runs.evaluate_passkey import evaluate_passkeys
from runs.extended_context import config_of
from runs.load import TrainedRun, make_model
from scripts.evaluate import main as evaluate
from scripts.passkey import main

PASSKEYS = """
data=passkey data.digits=2 data.held_out_examples=10 ~data.held_out ~data.path ~data.cache_dir
context_length=64 num_steps=4 eval_every=2 sample_every=4 checkpoint_every=4
"""
SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "mlp_dim": 8}


@pytest.fixture(scope="module")
def passkey_run(workplace):
    """A run too short to have learned anything."""
    assert workplace.train(*PASSKEYS.split(), "name=passkey") == 0
    return workplace.outputs / "passkey"


class Reader:
    """Stands in for a model: finds the keys in the first half of a text; elsewhere one digit is wrong."""

    document_separator = None

    def __init__(self, config):
        self.config = config

    def __call__(self, inputs, *, last):
        logits = np.zeros((*inputs.shape, 256), np.float32)
        for row, tokens in enumerate(inputs.numpy()):
            match = re.search(rb"The key: (\d+)\. ", bytes(tokens.astype(np.uint8)))
            answer = bytearray(match[1])
            if match.start() > len(tokens) / 2:
                answer[1] ^= 1
            logits[row, np.arange(-last, 0), list(answer)] = 1
        return tf.constant(logits[:, -last:])


def make_run(name="reader", *, model=None, digits=3, **config):
    """Run whose model is `model`, or a `Reader` with this model config."""
    model = model or Reader(TransformerLMConfig(**config))
    run_config = Config(
        context_length=model.config.context_length,
        model=model.config,
        data=PasskeyConfig(digits=digits),
        batch_size=3,
        precision="float32",
        compile="graph",
    )
    return TrainedRun(Path(name), model, run_config, {"step": 9})


def test_each_length_and_depth_has_a_row_with_its_accuracy(eagerly):
    run = make_run(context_length=150)
    rows = evaluate_passkeys([run], [100, 190], num_depths=5, examples=4, scalings=[])
    assert [(row["length"], row["depth"]) for row in rows] == [
        (length, depth) for length in (100, 150, 190) for depth in (0, 0.25, 0.5, 0.75, 1)
    ]
    for row in rows:
        facts = row["run"], row["step"], row["context_length"], row["digits"], row["examples"]
        assert facts == ("reader", 9, 150, 3, 4)
    assert [row["accuracy"] for row in rows if row["length"] == 190] == [1, 1, 1, 0, 0]


def test_a_scaling_applies_beyond_the_trained_length(monkeypatch):
    configs = []

    def find_keys(case, depths, examples):
        configs.append(config_of(case))
        return [None], lambda batch: np.full(len(depths) * examples, case.is_scaled)

    monkeypatch.setattr(evaluate_passkey, "find_keys", find_keys)
    run = make_run(context_length=100)
    rows = evaluate_passkeys([run], [80, 200], num_depths=2, examples=3, scalings=["yarn", "dynamic"])
    assert [config.context_length for config in configs] == [100, 100, 100, 200, 200]
    unscaled, _, _, yarn, dynamic = (config.rope.scaling for config in configs)
    assert (unscaled.type, yarn.type, dynamic.type) == ("none", "yarn", "dynamic")
    assert (yarn.factor, dynamic.target_length) == (2, 200)
    assert [(row["zero_shot"], row["length"], row["factor"], row["accuracy"]) for row in rows[::2]] == [
        *[("none", 80, 1, 0), ("none", 100, 1, 0), ("none", 200, 1, 0)],
        *[("yarn", 80, 1, 0), ("yarn", 100, 1, 0), ("yarn", 200, 2, 1)],
        *[("dynamic", 80, 1, 0), ("dynamic", 100, 1, 0), ("dynamic", 200, 2, 1)],
    ]


def test_a_run_on_text_is_asked_for_keys_of_the_default_length(eagerly):
    run = make_run(context_length=80)
    run = replace(run, config=Config(context_length=80, model=run.model.config, compile="graph"))
    rows = evaluate_passkeys([run], [90], num_depths=2, examples=3, scalings=[])
    assert {row["digits"] for row in rows} == {5}


def test_training_measures_the_keys_found_and_shows_some(passkey_run):
    summary = json.loads((passkey_run / "summary.json").read_text())
    assert 0 <= summary["accuracy"] <= 0.5
    assert summary["digits"] == 2
    assert load_config(passkey_run / "config.yaml").data.held_out_examples == 10
    samples = (passkey_run / "samples.txt").read_text()
    assert len(re.findall(r"«\.\.\..*What was the key\? The key: ».*\((?:right|it is \d\d)\)", samples)) == 3


def test_evaluate_gives_the_accuracy_of_the_summary(eagerly, passkey_run, run):
    code, output, errors = run(evaluate, passkey_run, "--json")
    assert (code, errors) == (0, [])
    (result,) = json.loads(output)
    summary = json.loads((passkey_run / "summary.json").read_text())
    assert (result["examples"], result["digits"], result["context_length"]) == (10, 2, 64)
    assert result["accuracy"] == pytest.approx(summary["accuracy"])


def test_evaluate_refuses_windows_of_a_run_on_passkeys(passkey_run, run):
    code, _, errors = run(evaluate, passkey_run, "--windows", 8)
    assert code == 2
    assert "scripts.passkey measures" in errors[-1]


def test_the_command_prints_a_table_or_json_and_draws_a_picture(eagerly, passkey_run, run):
    options = "--lengths", 96, "--depths", 3, "--examples", 2, "--zero-shot", "ntk"
    code, output, errors = run(main, passkey_run, *options)
    assert (code, errors[-1]) == (0, f"wrote {passkey_run / 'passkey.png'}")
    headers, rows = output.splitlines()[:-4], output.splitlines()[-4:]
    expected = "run  context length  zero shot  length  0%  50%  100%  all"
    assert sorted(" ".join(headers).split()) == sorted(expected.split())  # on two lines after a long path
    assert [row.split()[:4] for row in rows] == [
        [str(passkey_run), "64", scaling, length] for scaling in ("none", "ntk") for length in ("64", "96")
    ]
    (passkey_run / "passkey.png").unlink()
    _, output, _ = run(main, passkey_run, "--lengths", 64, "--depths", 2, "--examples", 2, "--json")
    (passkey_run / "passkey.png").unlink()
    rows = json.loads(output)
    assert [(row["length"], row["depth"], row["examples"]) for row in rows] == [(64, 0, 2), (64, 1, 2)]


@pytest.mark.parametrize(("changes", "are_separate"), [({}, True), ({"reset_positions": False}, False)])
def test_texts_of_a_row_are_separate_documents_by_default(changes, are_separate):
    config = TransformerLMConfig(context_length=200, **SIZES)
    model = make_model(Config(model=config, data=PasskeyConfig(**changes), precision="float32"))
    inputs, _ = Passkeys(200, 3).training_batch(0, batch_size=8, texts=3, seed=0)
    row = next(row for row in inputs if (row == 0).sum() > 1)
    second = np.flatnonzero(row == 0)[1]
    other = np.where(np.arange(len(row)) == 3, row + 1, row)
    logits, other_logits = model(np.stack([row, other])).numpy()[:, second:]
    assert np.allclose(logits, other_logits, rtol=0, atol=1e-6) == are_separate  # float32 of about 0.1


def test_a_trained_length_too_short_for_the_question_is_refused(trained_run, run):
    code, _, errors = run(main, trained_run)
    assert code == 2
    assert errors[-1].startswith("error: a context of 16 tokens is too short")
