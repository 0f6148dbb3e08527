"""Helpers of the tests that start train.py: copies, comparisons and errors of runs."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np

import train
from configs.compose import save_config
from configs.schema import Config
from data.config import DigitsConfig, TextFilesConfig
from models.config import AxialViTConfig, TransformerLMConfig
from runs.load import load_task, make_model
from training.checkpoints import Checkpoints, write_manifest

PROGRAM = Path(train.__file__)
WITHOUT_SAMPLES = "sample_every=null"  # compiling the decoding loop doubles the time of a tiny run
# One step that leaves the weights unchanged.
STILL = ("num_steps=1", "optimizer.learning_rate=1e-30", "optimizer.weight_decay=0")
VIT_SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 24}
LM_SIZES = VIT_SIZES | {"num_kv_heads": 1}


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def contents_of(directory):
    """Bytes of every file below `directory`, by path."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def copy_of(run, name):
    """Copy of a run directory under another name."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    return copy


def start_process(workplace, *changes):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *workplace.arguments(*changes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def refusal(workplace, capsys, *changes, label="error"):
    """Error lines, without their label, of a command that exits with 2 and changes nothing on disk."""
    capsys.readouterr()
    before = contents_of(workplace.outputs)
    assert workplace.train(*changes) == 2
    lines = capsys.readouterr().err.splitlines()
    assert contents_of(workplace.outputs) == before
    assert all(line.startswith(f"{label}: ") for line in lines)
    return [line.removeprefix(f"{label}: ") for line in lines]


def assert_mentions(line, *words):
    """Error messages are tested by the keys and values that they name, not by their wording."""
    for word in words:
        assert word in line, f"{word!r} is missing in: {line}"


def rewrite_manifest(path, changes):
    """Changes facts of a checkpoint and updates its SHA-256 sums; None removes a key."""
    facts = json.loads((path / "manifest.json").read_text()) | changes
    for name in ("manifest.json", "manifest.sha256"):
        (path / name).unlink()
    unset = {"format", "files"} | {key for key, value in facts.items() if value is None}
    write_manifest(path, {key: value for key, value in facts.items() if key not in unset})


def with_random_weights(model, scale):
    for number, weight in enumerate(model.trainable_variables):
        weight.assign(np.random.default_rng(number).normal(size=weight.shape, scale=scale))
    return model


def save_untrained_image_run(path, **model):
    """Directory, task and model of a run on digits with random, untrained weights."""
    return save_untrained_run(path, None, DigitsConfig(), AxialViTConfig(**(VIT_SIZES | model)))


def save_untrained_text_run(path, *, tokenizer="bytes", **model):
    """The same of a run on a text file, with a context of 24 tokens."""
    text, cache = path / "text.txt", path / "cache"
    path.mkdir(parents=True, exist_ok=True)
    text.write_text("".join(f"line {number} of {number * number}\n" for number in range(99)))
    config = TransformerLMConfig(context_length=24, **(LM_SIZES | model))
    data = TextFilesConfig(path=str(text), cache_dir=str(cache), held_out=0.2, tokenizer=tokenizer)
    return save_untrained_run(path / "run", 24, data, config)


def save_untrained_run(path, context_length, data, model):
    options = {"context_length": context_length, "data": data, "model": model, "batch_size": 50}
    config = Config(**options, precision="float32", compile="graph")
    task = load_task(config, report=lambda line: None)
    network = with_random_weights(make_model(task.config), 0.5)
    path.mkdir(parents=True, exist_ok=True)
    Checkpoints(path / "checkpoints", network, keras.optimizers.SGD(), keep=1).save(7, task.facts)
    if task.tokenizer is not None and task.tokenizer.json is not None:
        (path / "tokenizer.json").write_text(task.tokenizer.json)
    save_config(task.config, path / "config.yaml")
    return path, task, network
