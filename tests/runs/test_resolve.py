"""Resolution of the values that a config leaves open."""

import errno
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from configs.compose import save_config
from configs.schema import Config
from data.config import DigitsConfig, ImageFolderConfig, TfdsTextConfig
from models.config import AxialViTConfig
from runs.resolve import resolve_config, with_absolute_paths
from system import text
from system.errors import ConfigError


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


def conflict_of(config, recorded, directory):
    """Error of a config in the directory of another."""
    options = {"precision": "float32", "compile": "graph"}
    save_config(replace(recorded, **options), directory / "config.yaml")
    with pytest.raises(ConfigError) as error:
        resolve_config(replace(config, **options), directory / "config.yaml")
    return str(error.value)


def test_a_run_with_a_parent_is_refused_without_it(tmp_path):
    recorded = Config(init_from="/parent", init_from_step=3, init_from_data="abc")
    assert "init_from is /parent there, null here" in conflict_of(Config(), recorded, tmp_path)


def test_a_patch_size_that_does_not_fit_the_recorded_images_is_refused(tmp_path):
    options = {"context_length": None, "data": DigitsConfig()}
    recorded = Config(model=AxialViTConfig(image_size=(8, 8), patch_size=2), **options)
    error = conflict_of(Config(model=AxialViTConfig(patch_size=3), **options), recorded, tmp_path)
    assert error.startswith("patch_size must divide both sides of the images, got 3 for 8x8")


def test_a_full_disk_behind_standard_output_is_noted(tmp_path, monkeypatch, capsys):
    """Each write fails at once, as under PYTHONUNBUFFERED=1."""

    def fail(line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(text, "discard_output", lambda descriptor: None)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=fail))
    assert resolve_config(Config(), tmp_path / "config.yaml").precision != "auto"
    assert "note: cannot write to standard output (No space left" in capsys.readouterr().err
