"""Resolution of the values that a config leaves open."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from configs import compose
from configs.compose import save_config
from configs.schema import Config, parse_config
from data.config import DigitsConfig, TextFilesConfig
from models.config import AxialViTConfig
from runs import resolve
from runs.resolve import resolve_config
from system.errors import ConfigError
from training.replicas import Replicas
from training.run_log import RunDirectory


def test_a_tilde_is_the_home_directory_in_every_place(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    data = {"source": "tfds", "tfds_name": "poems", "data_dir": "~/tfds", "cache_dir": "~/cache"}
    config = parse_config({"output_dir": "~/runs", "init_from": "~/parent", "data": data})
    folder = parse_config({"data": {"source": "text_files", "path": "~/*.md"}}).data
    places = (config.output_dir, config.init_from, config.data.data_dir, config.data.cache_dir, folder.path)
    names = ("runs", "parent", "tfds", "cache", "*.md")
    assert places == tuple(f"/home/someone/{name}" for name in names)


def test_places_inside_the_project_move_with_it(tmp_path, monkeypatch):
    project = compose.CONFIGS.parent
    config = Config(init_from=str(project / "outputs/a"), data=TextFilesConfig(path="/texts", cache_dir="x"))
    path = tmp_path / "config.yaml"
    save_config(config, path)
    assert "init_from: outputs/a\n" in path.read_text()
    monkeypatch.setattr(compose, "CONFIGS", tmp_path / "moved" / "configs")
    loaded = compose.load_config(path)
    places = (loaded.init_from, loaded.data.path, loaded.data.cache_dir)
    assert places == (str(tmp_path / "moved/outputs/a"), "/texts", str(tmp_path / "moved/x"))


def conflict_of(config, recorded, directory):
    """Error of a config in the directory of another."""
    options = {"precision": "float32", "compile": "graph"}
    save_config(replace(recorded, **options), directory / "config.yaml")
    with pytest.raises(ConfigError) as error:
        resolve_config(replace(config, **options), directory / "config.yaml")
    return str(error.value)


def test_a_parent_at_another_place_must_have_the_recorded_data(tmp_path, monkeypatch, capsys):
    options = {"precision": "float32", "compile": "graph"}
    recorded = Config(init_from="/parent", init_from_step=3, init_from_data="abc", **options)
    config = replace(recorded, init_from="/moved", init_from_step=None, init_from_data=None)
    monkeypatch.setattr(resolve, "fill_from_parent", lambda config: replace(config, init_from_data="abc"))
    save_config(recorded, tmp_path / "config.yaml")
    assert resolve_config(config, tmp_path / "config.yaml") == replace(recorded, init_from="/moved")
    assert "init_from is /parent there, /moved here" in capsys.readouterr().err
    monkeypatch.setattr(resolve, "fill_from_parent", lambda config: replace(config, init_from_data="x"))
    assert "init_from_data is abc there, x here" in conflict_of(config, recorded, tmp_path)


def test_a_patch_size_that_does_not_fit_the_recorded_images_is_refused(tmp_path):
    options = {"context_length": None, "data": DigitsConfig()}
    recorded = Config(model=AxialViTConfig(image_size=(8, 8), patch_size=2), **options)
    error = conflict_of(Config(model=AxialViTConfig(patch_size=3), **options), recorded, tmp_path)
    assert error.startswith("patch_size must divide both sides of the images, got 3 for 8x8")


def test_exchanges_with_the_chief_do_not_depend_on_files_that_it_alone_has(tmp_path, monkeypatch):
    exchanges = []

    class Counting(Replicas):
        def from_chief(self, make, **options):
            exchanges.append(make)
            return make()

    task = SimpleNamespace(config=Config(init_from="/parent"), tokenizer=None, facts={"data_fingerprint": ""})
    monkeypatch.setattr(resolve, "resolve_config", lambda config, path: config)
    monkeypatch.setattr(resolve, "load_task", lambda config, **options: task)
    monkeypatch.setattr(resolve, "load_run_config", Mock(side_effect=ConfigError("read")))
    with pytest.raises(ConfigError, match="read"):
        resolve.resolve(task.config, RunDirectory(tmp_path), Counting())
    (tmp_path / "checkpoints" / "step-00000005").mkdir(parents=True)
    resolve.resolve(task.config, RunDirectory(tmp_path), Counting())
    assert len(exchanges) == 2 * 4
