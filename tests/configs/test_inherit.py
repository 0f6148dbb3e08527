"""Precedence: defaults, parent, experiment file, command line."""

import os
import shutil
from dataclasses import replace

import pytest
import yaml

from configs.compose import compose, save_config
from configs.schema import Config, parse_config
from data.config import DigitsConfig, ImageFolderConfig, PasskeyConfig, TextFilesConfig
from models.config import AxialViTConfig, RopeConfig, RopeScalingConfig, TransformerLMConfig
from system.errors import ConfigError, RunError
from train import main

LM = TransformerLMConfig(context_length=64, dim=96, num_layers=3, rope=RopeConfig(theta=5_000.0))
TEXT = Config(name="docs", context_length=64, model=LM, data=TextFilesConfig(path="/docs/*.md", held_out=0.1))
VIT = AxialViTConfig(image_size=(8, 8), channels=1, num_classes=10, patch_size=2, dim=32, num_layers=2)
IMAGES = Config(name="vit", context_length=None, model=VIT, data=DigitsConfig(image_size=(8, 8)))


@pytest.fixture(autouse=True)
def parents(tmp_path, monkeypatch):
    """Runs in outputs/docs and outputs/vit of the working directory."""
    monkeypatch.chdir(tmp_path)
    for config in (TEXT, IMAGES):
        directory = tmp_path / "outputs" / config.name
        directory.mkdir(parents=True)
        save_config(config, directory / "config.yaml")


def composed(*arguments):
    """The config of a command line, and the lines that it reports."""
    lines = []
    return parse_config(compose(list(arguments), report=lines.append)), lines


def test_extension_takes_model_and_data_from_a_parent_of_other_sizes():
    config, lines = composed("experiment=extend", "init_from=outputs/docs", "context_length=256")
    assert config.data == TEXT.data
    assert config.model == replace(LM, context_length=256, rope=replace(LM.rope, interpolate_factor=4.0))
    assert (config.num_steps, config.name) == (300, "extend")
    assert lines == ["model, data from outputs/docs"]


def test_parent_overrides_the_defaults_only():
    config, lines = composed("init_from=outputs/docs", "name=child", "model.dropout=0.1", "data.held_out=0.2")
    assert config.model == replace(LM, dropout=0.1)
    assert config.data == replace(TEXT.data, held_out=0.2)
    assert (config.context_length, config.batch_size) == (64, Config().batch_size)
    assert lines == ["model, data, context_length from outputs/docs"]


def test_group_on_the_command_line_is_not_inherited():
    config, lines = composed("init_from=outputs/docs", "name=child", "model=lm_tiny", "data=python_stdlib")
    assert config == replace(
        Config(name="child", init_from="outputs/docs"),
        context_length=64,
        model=TransformerLMConfig(context_length=64, vocab_size=None),
    )
    assert lines == ["context_length from outputs/docs"]


def test_passkeys_take_the_model_but_not_the_data():
    config, lines = composed("experiment=passkey", "init_from=outputs/docs")
    assert (config.model, config.data) == (LM, PasskeyConfig())
    assert lines == ["model, context_length from outputs/docs"]


def test_vision_transformer_needs_no_experiment_and_takes_sizes_from_its_own_images():
    config, _ = composed("init_from=outputs/vit", "name=photos", "data=image_folder", "data.path=photos")
    assert config.data == ImageFolderConfig(path="photos")
    assert config.model == replace(VIT, image_size=None, channels=None, num_classes=None)
    assert config.context_length is None


def test_the_experiment_of_vision_transformers_takes_model_and_data_of_the_parent():
    own = replace(IMAGES, name="own", data=ImageFolderConfig(path="/photos"))
    os.mkdir("outputs/own")
    save_config(own, "outputs/own/config.yaml")
    words = ["experiment=vit", "init_from=outputs/own", "name=child"]
    config, lines = composed(*words)
    model = replace(VIT, image_size=None, channels=None, num_classes=None)
    assert (config.model, config.data, config.num_steps) == (model, own.data, 1000)
    assert lines == ["model, data from outputs/own"]
    config, lines = composed(*words, "data=digits", "model.dim=64")
    assert (config.model, config.data) == (replace(model, dim=64), DigitsConfig())
    assert lines == ["model from outputs/own"]


def test_an_experiment_keeps_its_data_and_takes_the_sizes_of_the_parent():
    words = ["experiment=shakespeare", "init_from=outputs/docs"]
    config, _ = composed(*words)
    assert (config.data.tfds_name, config.model.dim) == ("tiny_shakespeare", LM.dim)
    assert composed(*words, "model=lm_small")[0].model.dim == 384


def test_the_learning_rate_of_an_imported_parent_limits_that_of_an_experiment():
    """The only checkpoint of an imported run is that of step 0."""
    os.makedirs("outputs/docs/checkpoints/step-00000000")
    optimizer = replace(TEXT.optimizer, learning_rate=1e-4, adamw_learning_rate_ratio=1.0)
    save_config(replace(TEXT, optimizer=optimizer), "outputs/docs/config.yaml")
    words = ["experiment=extend", "init_from=outputs/docs"]
    imported, lines = composed(*words)
    assert imported.optimizer.learning_rate == 1e-4
    assert composed("init_from=outputs/docs", "name=child")[0].optimizer.adamw_learning_rate_ratio == 1
    assert lines == ["model, data, optimizer.learning_rate=0.0001 from outputs/docs"]
    assert composed(*words, "optimizer.learning_rate=0.01")[0].optimizer.learning_rate == 0.01
    os.rename("outputs/docs/checkpoints/step-00000000", "outputs/docs/checkpoints/step-00000005")
    trained, lines = composed(*words)
    assert trained.optimizer.learning_rate == 1e-3
    assert lines == ["model, data from outputs/docs"]
    os.mkdir("outputs/extend")
    for recorded in (imported, trained):  # the child resumes
        save_config(recorded, "outputs/extend/config.yaml")
        assert composed(*words)[0] == recorded


def test_a_parent_of_another_architecture_is_not_inherited_by_an_experiment():
    config, _ = composed("experiment=vit", "init_from=outputs/docs", "name=child")
    assert (config.model.architecture, config.data.source) == ("axial_vit", "digits")


def test_the_printed_configuration_holds_the_inherited_values(capsys):
    assert main(["experiment=extend", "init_from=outputs/docs", "--cfg", "job"]) is None
    output, errors = capsys.readouterr()
    values = yaml.safe_load(output)
    assert (values["model"]["dim"], values["data"]["path"]) == (LM.dim, "/docs/*.md")
    assert (values["context_length"], values["model"]["rope"]["interpolate_factor"]) == (1024, 4.0)
    assert errors == "model, data from outputs/docs\n"


def test_run_resumes_without_its_parent():
    arguments = ["experiment=extend", "init_from=outputs/docs", "context_length=256"]
    config, _ = composed(*arguments)
    os.mkdir("outputs/extend")
    save_config(config, "outputs/extend/config.yaml")
    shutil.rmtree("outputs/docs")
    assert composed(*arguments) == (config, ["model, data, context_length from outputs/extend"])


def test_longrope_keeps_the_original_context_that_it_cannot_derive_from_a_factor():
    factors = {"short_factor": (1.0,) * 12, "long_factor": (2.0,) * 12}
    lengths = {"original_max_position_embeddings": 32, "max_position_embeddings": 64}
    scaling = RopeScalingConfig(type="longrope", **lengths, **factors)
    model = replace(LM, rope=RopeConfig(scaling=scaling))
    save_config(replace(TEXT, model=model), "outputs/docs/config.yaml")
    assert composed("init_from=outputs/docs")[0].model == model


def test_a_missing_parent_is_the_only_error():
    with pytest.raises(RunError, match=r"^init_from=outputs/none is not a run directory: it has no config"):
        composed("init_from=outputs/none", "data.image_size=[16,16]")
    with pytest.raises(RunError, match=r"^init_from=docs is not a run.*; did you mean 'outputs/docs'\?$"):
        composed("init_from=docs")


def test_damaged_parent_is_named():
    with open("outputs/docs/config.yaml", "a") as file:
        file.write("nam: x\n")
    with pytest.raises(ConfigError, match=r"^outputs/docs/config.yaml is .* \(unknown key 'nam'"):
        composed("init_from=outputs/docs")


def test_nothing_in_the_config_of_a_parent_is_resolved(monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    save_config(replace(TEXT, data=TextFilesConfig(path="/${oc.env:SECRET}")), "outputs/docs/config.yaml")
    assert composed("init_from=outputs/docs")[0].data.path == "/${oc.env:SECRET}"


def test_composition_leaves_the_groups_as_they_were():
    composed("init_from=outputs/docs")
    with pytest.raises(ConfigError, match=r"^no 'parent' in model; choose from lm_shallow, lm_small, "):
        compose(["model=parent"])
