"""What a run settles before it begins."""

from dataclasses import replace

import pytest

from configs.schema import Config
from data.config import ImageFolderConfig, TfdsTextConfig
from scripts.starting import with_absolute_paths


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
