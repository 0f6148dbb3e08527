"""What a run settles before it begins."""

from dataclasses import replace

import pytest

from configs.schema import Config
from data.config import ImageFolderConfig, TfdsTextConfig
from models.config import AxialViTConfig, TransformerLMConfig
from runs.resolve import other_draws, with_absolute_paths


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (ImageFolderConfig(path="photos"), "path"),
        (ImageFolderConfig(path="/photos", cache_dir="cache"), "cache_dir"),
        (TfdsTextConfig(tfds_name="poems", data_dir="tfds"), "data_dir"),
        (TfdsTextConfig(tfds_name="poems", cache_dir="~/cache"), "cache_dir"),
    ],
)
def test_the_places_of_a_run_are_known_from_every_directory(data, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = getattr(data, key).removeprefix("~/")
    settled = with_absolute_paths(Config(data=data)).data
    assert settled == replace(data, **{key: str(tmp_path / place)})


@pytest.mark.parametrize(
    "model", [TransformerLMConfig(dropout=0.1), AxialViTConfig(drop_path=0.1), AxialViTConfig(dropout=0.1)]
)
def test_a_run_with_dropout_says_that_another_number_of_replicas_draws_otherwise(model):
    config = Config(model=model)
    assert "there were 2, now 1" in other_draws(config, {"step": 5, "replicas": 2}, 1)
    assert other_draws(config, {"step": 5, "replicas": 2}, 2) == ""
    assert "there were 1, now 2" in other_draws(config, {"step": 5}, 2)  # recorded before there were more
    assert other_draws(config, {"step": 0}, 2) == ""  # a new run
    assert other_draws(Config(), {"step": 5, "replicas": 2}, 1) == ""
