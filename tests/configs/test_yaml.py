import functools
import pathlib
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from configs.help import comments, help_text
from configs.schema import flatten, parse_config, to_flat
from system.errors import ConfigError

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
REQUIRED = {
    "data=text_files": "data.path=docs",
    "data=json_lines": "data.path=a.jsonl",
    "data=parquet": "data.path=a.parquet",
    "data=tfds_text": "data.tfds_name=tiny_shakespeare",
    "data=tfds_images": "data.tfds_name=mnist",
    "data=image_folder": "data.path=photos",
}
IMAGES = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "tfds_images", "image_folder")
OTHER_DATA = {"vit": "digits", "shakespeare": "python_stdlib"}
OTHER_DATA["shakespeare_speedrun"] = "python_stdlib"
RECIPES = sorted(CONFIGS.glob("recipe/*.yaml"))
PATHS = [path for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in ("recipe", "study")]
CHOICES = sorted(f"{path.parent.name}={path.stem}" for path in PATHS)


@functools.cache
def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=list(overrides)), resolve=True)


def with_required(choice):
    is_of_images = choice.removeprefix("data=") in IMAGES or choice.startswith("model=vit")
    required = [REQUIRED[choice]] if choice in REQUIRED else []
    return [*(["experiment=vit"] if is_of_images else []), choice, *required]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes_to_a_run_and_holds_every_key(choice):
    cfg = composed(*with_required(choice))
    assert set(flatten(cfg)) == set(to_flat(parse_config(cfg)))


def test_the_yaml_defaults_are_those_of_the_dataclasses():
    config = parse_config(composed())
    assert config == type(config)()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_begins_with_its_command_and_holds_no_size_that_a_group_sets(path):
    """A size would win over the group that the command line asks for."""
    command = path.read_text().splitlines()[1]
    assert command.startswith("# python train.py")
    assert path.stem == "lm" or f" experiment={path.stem}" in command
    sizes = set(flatten(yaml.safe_load((CONFIGS / "model" / "lm_small.yaml").read_text()))) - {"defaults"}
    keys = yaml.safe_load(path.read_text())
    assert not sizes & set(flatten(keys.get("model", {})))
    assert "data" not in keys
    assert keys["name"] == path.stem


def test_the_recipe_of_an_experiment_holds_for_a_model_of_another_size():
    cfg = composed("experiment=lm_xpos", "model=lm_small")
    assert (cfg["model"]["dim"], cfg["model"]["rope"]["xpos"]) == (384, True)
    assert composed("experiment=lm_learned_rotations")["model"]["learned_rotations"] == "per_token"


def test_a_group_on_the_command_line_wins_over_the_experiment():
    cfg = composed("experiment=shakespeare", "data=python_stdlib", "model=lm_small")
    assert (cfg["data"]["source"], cfg["model"]["dim"], cfg["name"]) == ("python_stdlib", 384, "shakespeare")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_holds_for_its_experiment_and_data_and_yields_to_the_command_line(path):
    experiments = (path.stem for path in CONFIGS.glob("experiment/*.yaml"))
    experiment = max((name for name in experiments if path.stem.startswith(f"{name}_")), key=len)
    data = path.stem.removeprefix(f"{experiment}_")
    chosen = [f"experiment={experiment}", f"data={data}"]
    cfg = flatten(composed(*chosen))
    recipe = flatten(yaml.safe_load(path.read_text()))
    assert {key: cfg[key] for key in recipe} == recipe
    assert composed(*chosen, "num_steps=7")["num_steps"] == 7
    other = flatten(composed(f"experiment={experiment}", f"data={OTHER_DATA[experiment]}"))
    assert not any(other.get(key) == value for key, value in recipe.items())


def test_help_shows_the_common_keys_and_where_the_others_are():
    for config in (composed(), composed("experiment=vit")):
        text = help_text(config)
        keys = re.findall(r"^  ([\w.]+)=\S* ", text, re.MULTILINE)
        assert 24 <= len(keys) <= 28 and set(keys) <= set(flatten(config))
        assert "--help all" in text and "--help model.rope" in text
        assert max(map(len, [*text.splitlines(), *help_text(config, "all").splitlines()])) <= 100
    assert "experiment  extend, " in text
    assert "num_steps=600                     updates of the weights" in help_text(composed())
    assert "position encoding: axial" in text and "alibi" not in text


def test_help_of_a_group_shows_its_keys():
    text = help_text(composed(), "all")
    assert all(f"  {key}=" in text for key in to_flat(parse_config(composed())))
    text = help_text(composed("experiment=vit"), "data.augment")
    assert "data.augment.flip=false" in text and "seed" not in text
    text = help_text(composed(), "optimizer.beta_1")
    assert text.split() == ["optimizer.beta_1=0.9", "decay", "rate", "of", "the", "first", "moment"]
    assert help_text(composed(), "rope") == help_text(composed(), "model.rope")
    for topic, answer in (("lr", "optimizer.learning_rate"), ("optimiser", "did you mean 'optimizer'")):
        with pytest.raises(ConfigError, match=answer):
            help_text(composed(), topic)


def test_every_comment_belongs_to_a_key():
    for choice in CHOICES:
        config = composed(*with_required(choice))
        assert {key for key, _ in comments(config)} <= {*flatten(config), *groups_in(config)}


def groups_in(nested, prefix=""):
    """Keys that hold keys."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield prefix + key
            yield from groups_in(value, f"{prefix}{key}.")
