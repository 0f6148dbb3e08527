"""Resolution of the values that a config leaves open."""

from dataclasses import replace

import pytest

from configs.schema import Config
from data.config import ImageFolderConfig, TfdsTextConfig
from models.config import AxialViTConfig
from runs.resolve import with_absolute_paths


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (ImageFolderConfig(path="photos"), "path"),
        (ImageFolderConfig(path="/photos", cache_dir="cache"), "cache_dir"),
        (TfdsTextConfig(tfds_name="poems", data_dir="tfds"), "data_dir"),
        (TfdsTextConfig(tfds_name="poems", cache_dir="~/cache"), "cache_dir"),
    ],
)
def test_paths_of_a_run_become_absolute(data, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = getattr(data, key).removeprefix("~/")
    is_vision = isinstance(data, ImageFolderConfig)
    options = {"model": AxialViTConfig(), "context_length": None} if is_vision else {}
    config = Config(data=data, **options)
    resolved = with_absolute_paths(config).data
    assert resolved == replace(data, **{key: str(tmp_path / place)})
