import dataclasses
import math

import pytest

from configs.compose import load_config, save_config
from configs.schema import (
    Config,
    conflicting_keys,
    deciding_keys,
    describe_difference,
    differing_keys,
    parse_config,
    to_dict,
)
from data.config import DIGITS_AUGMENT, PythonStdlibConfig, TextFilesConfig
from models.config import AxialViTConfig, TransformerLMConfig
from system.errors import ConfigError, RunError
from system.validation import describe
from training.config import OptimizerConfig

SOURCES = "python_stdlib, tfds, text_files, json_lines, parquet, passkey, digits, tfds_images, image_folder"
VISION = {"context_length": None, "model": {"architecture": "axial_vit"}, "data": {"source": "digits"}}
DEVICES = "distribute.devices must be different devices of one kind, such as GPU:0, GPU:1; got"


def text(**options):
    return {"data": {"source": "python_stdlib"} | options}


def rope(**options):
    return {"model": {"rope": options}}


def mirrored(*devices):
    return {"distribute": {"strategy": "mirrored", "devices": [*devices]}}


# Problem, and the values that have it.
PROBLEMS = [
    # ranges
    (
        "model.rope.interpolate_factor must be >= 1, got 0.5. To extend a context of 256 to 512, use 2.0.",
        rope(interpolate_factor=0.5),
    ),
    ("model.dropout must be < 1, got 1", {"model": {"dropout": 1.0}}),
    ("optimizer.learning_rate must be > 0, got 0", {"optimizer": {"learning_rate": 0}}),
    ("optimizer.learning_rate must be > 1e-38, got 1e-320", {"optimizer": {"learning_rate": 1e-320}}),
    (f"{DEVICES} CPU:0, CPU:0", mirrored("CPU:0", "CPU:0")),
    (f"{DEVICES} TPU:0", mirrored("TPU:0")),
    # types
    ("num_steps must be a whole number, got '500'", {"num_steps": "500"}),
    ("num_steps must be a whole number, got 2.5", {"num_steps": 2.5}),
    ("optimizer.beta_1 must be a finite number, got '1e-3'", {"optimizer": {"beta_1": "1e-3"}}),
    ("optimizer.beta_1 must be a finite number, got nan", {"optimizer": {"beta_1": math.nan}}),
    ("model.qk_norm must be true or false, got 1", {"model": {"qk_norm": 1}}),
    ("""name must be text, got 12. In quotes it is text: "'12'\"""", {"name": 12}),
    ("output_dir must not be empty, got ''", {"output_dir": ""}),
    ("init_from must be null to leave it unset, got 'None'", {"init_from": "None"}),
    (
        "data.image_size must be a list such as [64,96], got [8]",
        VISION | text(source="digits", image_size=[8]),
    ),
    ("model holds keys of its own, such as model.architecture; got {}", {"model": {}}),
    # choices
    (
        "model.position must be one of rotary, learned, sinusoidal, alibi, none; got 'rotery'; did you mean "
        "'rotary'?",
        {"model": {"position": "rotery"}},
    ),
    (
        f"data.source must be one of {SOURCES}; got 'text_file'; did you mean 'text_files'?",
        text(source="text_file", path="a.txt"),
    ),
    (f"data.source must be one of {SOURCES}; got null", text(source=None)),
    # unknown and missing keys
    (
        "unknown key 'model.interpolate_facto'; did you mean 'model.rope.interpolate_factor'?",
        {"model": {"interpolate_facto": 2}},
    ),
    ("unknown key 'model.context_length'; did you mean 'context_length'?", {"model": {"context_length": 5}}),
    ("unknown key 'model.dim.x'; did you mean 'model.dim'?", {"model": {"dim": {"x": 1}}}),
    ("unknown key '\"model.dim\"'; did you mean 'model.dim'?", {"model.dim": 64}),
    ("unknown key 'xyzzy'", {"xyzzy": 1}),
    (
        "unknown key 'data.path' here; it belongs to data=text_files or data=json_lines or data=parquet or "
        "data=image_folder",
        text(path="x"),
    ),
    ("data.path is missing: set data.path='docs/**/*.md'", text(source="text_files")),
    ("data.path is missing: set data.path='docs/**/*.md'", text(source="text_files", path="???")),
    # rules between keys
    (
        "distribute.devices has no effect with distribute=none, got CPU:0: use mirrored",
        {"distribute": {"devices": ["CPU:0"]}},
    ),
    (
        "data.held_out is set, and so is validation_split 'test': set one of them",
        text(source="tfds", tfds_name="x", validation_split="test", held_out=0.1),
    ),
    (
        "data.validation_split must differ from train_split, got 'test' for both",
        VISION | text(source="tfds_images", tfds_name="mnist", train_split="test"),
    ),
    (
        "data.augment.fill reflect has no effect without rotation, scale, shear or shift; use zero",
        VISION | text(source="tfds_images", tfds_name="x", augment={"fill": "reflect", "flip": True}),
    ),
    (
        "data.bpe_vocab_size has no effect without tokenizer=bpe, got 300",
        text(tokenizer="tokenizer.json", bpe_vocab_size=300),
    ),
    (
        "data.tokenizer bpe is trained on the text of a run: set the directory of that run",
        text(source="passkey", tokenizer="bpe"),
    ),
    ("name must be a plain directory name, got 'a/b'", {"name": "a/b"}),
    (
        "model.rope.theta_rescale_factor cannot be combined with interpolate_factor, got 4 and 3: set one of "
        "them to 1",
        {"model": {"rope": {"interpolate_factor": 3.0, "theta_rescale_factor": 4.0}}},
    ),
    (
        "model.rope.scaling yarn needs factor, original_max_position_embeddings; missing: factor.",
        {"model": {"rope": {"scaling": {"type": "yarn"}}}},
    ),
    (
        "data.source 'digits' is images, but the model is a language model: choose text, such as "
        "data=python_stdlib, or add experiment=vit",
        text(source="digits"),
    ),
    (
        "data.source 'python_stdlib' is text, but the model is a vision transformer: choose images, such as "
        "data=digits, or leave out experiment=vit",
        VISION | text(),
    ),
    ("context_length must be null for a vision transformer, got 256", VISION | {"context_length": 256}),
    ("init_from_step has no effect without init_from, got 5", {"init_from_step": 5}),
    ("accumulation_steps must divide batch_size 8, got 3", {"accumulation_steps": 3}),
]


@pytest.mark.parametrize(("problem", "values"), PROBLEMS)
def test_each_problem_is_one_line_with_the_full_key(problem, values):
    with pytest.raises(ConfigError) as caught:
        parse_config(text() | values)
    assert str(caught.value) == problem


def test_a_bound_is_that_of_its_field_except_one_that_is_zero_in_float32():
    for bound, value, expected in ((5, -1, "> 5"), (-1, -2, "> -1"), (1e-38, -2.0, "> 0"), (0, 0, "> 0")):
        details = {"type": "greater_than", "input": value, "ctx": {"gt": bound}}
        assert describe(details, "key", None) == f"must be {expected}, got {value}"


def test_whole_numbers_and_fractions_become_the_type_of_their_field():
    config = parse_config(text() | {"num_steps": 2e3, "optimizer": {"clip_norm": 2}})
    assert (config.num_steps, type(config.num_steps)) == (2_000, int)
    assert (config.optimizer.clip_norm, type(config.optimizer.clip_norm)) == (2.0, float)


def test_one_context_length_reaches_the_model():
    config = parse_config({"context_length": 48})
    assert (config.context_length, config.model.context_length) == (48, 48)
    assert "context_length" not in to_dict(config)["model"]


def test_architecture_selects_the_class_of_the_model():
    config = parse_config(VISION)
    assert config.model == AxialViTConfig()
    assert parse_config(to_dict(config)) == config


def test_missing_key_of_a_group_gets_the_default_of_its_source():
    data = VISION["data"] | {"augment": {"rotation": 3}}
    expected = dataclasses.replace(DIGITS_AUGMENT, rotation=3.0)
    assert parse_config(VISION | {"data": data}).data.augment == expected


def unusual_config():
    return Config(
        name="1e-3",
        init_from="/outputs/a",
        context_length=48,
        model=TransformerLMConfig(context_length=48, dim=96, num_heads=3, num_kv_heads=1, qk_norm=True),
        data=TextFilesConfig(path="/a 'b' # c: d", cache_dir="/null"),
        optimizer=OptimizerConfig(learning_rate=1e-2, epsilon=1e-12),
        num_steps=777,
        precision="float32",
    )


@pytest.mark.parametrize("config", [Config(), unusual_config()], ids=["defaults", "unusual"])
def test_a_saved_configuration_is_loaded_equal(tmp_path, config):
    save_config(config, tmp_path / "config.yaml")
    assert parse_config(to_dict(config)) == config
    assert load_config(tmp_path / "config.yaml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "holds no keys"),
        ("name: [a\n", "not a configuration: {path}, line 2: "),
        ("name: a\nname: b\n", "not a configuration: {path}, line 2: found duplicate key name"),
        ("name: !!python/object/apply:os.getcwd []\n", "not a configuration: {path}, line 1: "),
        ("data: {source: python_stdlib}\nnam: a\n", "unknown key 'nam'; did you mean 'name'?"),
    ],
)
def test_invalid_file_is_named_in_one_line(tmp_path, text, problem):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises((ConfigError, RunError)) as caught:
        load_config(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path} ") and problem.format(path=path) in line


def test_differing_keys_are_listed_with_both_values():
    other = dataclasses.replace(Config(), seed=500, data=TextFilesConfig(path="a.txt"))
    assert differing_keys(Config(), Config()) == []
    assert differing_keys(Config(data=PythonStdlibConfig()), other) == [
        ("seed", 0, 500),
        ("data.source", "python_stdlib", "text_files"),
        ("data.path", None, "a.txt"),
        ("data.invalid", None, "skip"),
    ]


def test_conflicting_keys_exist_on_both_sides_and_change_a_step():
    other = dataclasses.replace(Config(), name="other", seed=5, log_every=7, data=TextFilesConfig(path="a"))
    expected = [("seed", 0, 5), ("data.source", "python_stdlib", "text_files")]
    assert conflicting_keys(deciding_keys(Config()), other) == expected


def test_difference_is_described_with_yaml_values():
    assert describe_difference(("a.b", None, (8, 12))) == "a.b is null there, [8,12] here"
    assert describe_difference(("c", "axial", True)) == "c is axial there, true here"
