"""Comparison of a checkpoint with the run that resumes from it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from configs.schema import Config, deciding_keys
from data.config import DigitsConfig
from models.config import AxialViTConfig, TransformerLMConfig
from runs.checkpointing import check_manifest
from runs.resolve import Run
from system.errors import ConfigError, RunError
from tests.run_helpers import assert_mentions
from training.hardware import describe_environment
from training.replicas import ONE_DEVICE
from training.run_log import RunDirectory

IMAGES = {"data": DigitsConfig(), "context_length": None}


def run_of(config, tmp_path):
    task = SimpleNamespace(facts={"data_fingerprint": "0a" * 32})
    return Run(config, task, RunDirectory(tmp_path), ONE_DEVICE)


def manifest_of(config, **changes):
    facts = {"data_fingerprint": "0a" * 32, "environment": describe_environment(), "replicas": 1}
    return {"step": 5, "config": deciding_keys(config), **facts, **changes}


@pytest.mark.parametrize(
    "config",
    [
        Config(model=TransformerLMConfig(dropout=0.1)),
        Config(model=AxialViTConfig(drop_path=0.1), **IMAGES),
        Config(model=AxialViTConfig(dropout=0.1), **IMAGES),
    ],
)
def test_another_number_of_replicas_is_noted_where_the_model_has_dropout(config, tmp_path, capsys):
    check_manifest(manifest_of(config, replicas=2), run_of(config, tmp_path))
    assert "there were 2, now 1" in capsys.readouterr().err
    check_manifest(manifest_of(config), run_of(config, tmp_path))
    check_manifest(manifest_of(Config(), replicas=2), run_of(Config(), tmp_path))
    assert capsys.readouterr().err == ""


def test_a_checkpoint_of_other_data_or_another_config_is_refused(tmp_path):
    config = Config()
    with pytest.raises(RunError, match=r"^the data have changed since this run began: .* name=NEW$"):
        check_manifest(manifest_of(config, data_fingerprint="0b" * 32), run_of(config, tmp_path))
    with pytest.raises(ConfigError, match="seed is 0 there, 1 here"):
        check_manifest(manifest_of(config), run_of(replace(config, seed=1), tmp_path))


def test_another_environment_is_noted_in_one_line(tmp_path, capsys):
    recorded = {"threads": 64, "tensorflow": "2.20.0", "processor_flags": ["avx5"], "XLA_FLAGS": "--fast"}
    manifest = manifest_of(Config(), environment=describe_environment() | recorded)
    check_manifest(manifest, run_of(Config(), tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    words = ("last bits", "tensorflow 2.20.0", "threads 64", "processor_flags", "avx5", "XLA_FLAGS --fast")
    assert_mentions(line, *words)
