"""Parent of a run, `init_from`: inherited values and weights, and differences that are allowed."""

from dataclasses import replace
from pathlib import Path

import keras
import tensorflow as tf

from configs.schema import Config, describe_difference, differing_keys
from data.config import BPE
from data.corpus import tokenizer_of
from data.tokenizer import FILE_NAME
from models.config import AxialViTConfig
from models.grid import resample_grid
from runs.load import load_run_config, load_run_tokenizer, make_model
from system.errors import ConfigError, RunError
from system.text import print_line, print_note
from training.checkpoints import read_latest_manifest, restore_weights

# Keys of the model that a child may change, and why some others may not change.
CHANGEABLE = (
    "context_length",
    "model.image_size",
    "model.initial_stddev",
    "model.dropout",
    "model.drop_path",
    "model.attention_kernel",
    "model.recompute_blocks",
    "model.rope.interpolate_factor",
    "model.rope.theta_rescale_factor",
    "model.rope.scaling.",
)
REASONS = {
    "model.num_classes": "reset_head=true takes all weights but the classifier",
    "model.rope.xpos": "the weights were trained with, or without, the decay of xPos",
    "model.rope.xpos_scale_base": "the weights were trained with this decay",
}


def fill_from_parent(config: Config) -> Config:
    """Fills in the open values that a new run takes from its parent, and records the parent's checkpoint."""
    parent = load_run_config(Path(config.init_from))
    config = inherit(config, parent)
    if not isinstance(config.model, AxialViTConfig):
        config = inherit_tokenizer(config, parent)
    _, manifest = read_latest_manifest(Path(config.init_from), step=config.init_from_step)
    fingerprint = config.init_from_data or manifest["data_fingerprint"]
    return replace(config, init_from_step=manifest["step"], init_from_data=fingerprint)


def inherit(config: Config, parent: Config) -> Config:
    """Fills in the patch size, and the context or grid from which the scaling starts."""
    if type(config.model) is not type(parent.model):
        raise ConfigError(
            f"init_from={config.init_from} is a run of model.architecture {parent.model.architecture}, "
            f"not {config.model.architecture}"
        )
    if isinstance(config.model, AxialViTConfig):
        config = replace(config, model=fill_missing(config.model, parent.model, ("patch_size",)))
        return fill_original_length(config, trained_grid(parent.model))
    return fill_original_length(config, trained_length(parent))


def inherit_tokenizer(config: Config, parent: Config) -> Config:
    """Fills in the tokenizer of the parent; raises ConfigError if the config names another."""
    tokenizer, name = load_run_tokenizer(Path(config.init_from), parent), config.data.tokenizer
    if name is None:
        name = "bytes" if tokenizer.json is None else str(Path(config.init_from, FILE_NAME))
    elif name == BPE or tokenizer_of(config.data).sha256 != tokenizer.sha256:
        raise ConfigError(
            f"data.tokenizer={name} is another tokenizer than that of init_from={config.init_from}, "
            "whose weights are of no use with it. Leave it out"
        )
    return replace(config, data=replace(config.data, tokenizer=name))


def fill_missing(config, other, names: tuple[str, ...]):
    """Copy of a dataclass in which null fields have the values of `other`."""
    return replace(config, **{name: getattr(other, name) for name in names if getattr(config, name) is None})


def fill_original_length(config: Config, length: int | tuple[int, ...] | None) -> Config:
    """Fills in the context, or the grid, from which the scaling starts, if the scaling reads it."""
    scaling = config.model.rope.scaling
    is_open = scaling.original_max_position_embeddings is None
    if config.init_from is None or not (is_open and scaling.reads("original_max_position_embeddings")):
        return config
    rope = replace(config.model.rope, scaling=replace(scaling, original_max_position_embeddings=length))
    return replace(config, model=replace(config.model, rope=rope))


def check_parent(config: Config) -> None:
    """Prints which options of the model differ from `init_from`; ConfigError if its weights do not fit."""
    parent = load_run_config(Path(config.init_from))
    check_options(config, parent)
    check_positions(config, parent)
    if not isinstance(config.model, AxialViTConfig):
        check_factor(config, parent)


def check_options(config: Config, parent: Config) -> None:
    problems = []
    for key, old, new in differing_keys(parent, config):
        if not key.startswith(("model.", "context_length")):
            continue
        words = describe_difference((key, old, new))
        if key.startswith(CHANGEABLE) or (key == "model.num_classes" and config.reset_head):
            print_line(f"unlike init_from: {words}")
        else:
            problems.append(words + (f" ({REASONS[key]})" if key in REASONS else ""))
    if problems:
        raise ConfigError(
            f"the weights of init_from={config.init_from} are of another model: {'; '.join(problems)}. "
            "Leave out what sets these keys to take the model of init_from"
        )


def check_positions(config: Config, parent: Config) -> None:
    """Raises ConfigError if absolute positions do not cover the new context or grid."""
    position = config.model.position
    if config.resample_positions and position != "learned":
        raise ConfigError(f"resample_positions has no effect with model.position={position}")
    if position == "learned" and not config.resample_positions and grid_of(config) != grid_of(parent):
        raise ConfigError(
            f"model.position=learned has weights for {describe_extent(parent)} in "
            f"init_from={config.init_from}, not for {describe_extent(config)}: set resample_positions=true "
            "to resample them, or use rotary positions"
        )
    old, new = parent.context_length, config.context_length
    if position == "sinusoidal" and new and new > old:
        raise ConfigError(
            f"model.position=sinusoidal cannot be extended from {old} to {new}: the weights were not trained "
            f"at positions after {old}; use rotary positions"
        )


def describe_extent(config: Config) -> str:
    """Range of the positions of a model."""
    if config.context_length:
        return f"{config.context_length} tokens"
    return "images of " + "x".join(map(str, config.model.image_size))


def check_factor(config: Config, parent: Config) -> None:
    """Raises ConfigError if the factor is below the parent's; notes positions beyond the trained ones."""
    key, factor = scaling_factor(config)
    old_key, old_factor = scaling_factor(parent)
    if factor < old_factor:
        raise ConfigError(
            f"{key} is relative to the context before any scaling and must be at least the {old_factor:g} "
            f"of init_from={config.init_from} ({old_key}), got {factor:g}. Leave it out to keep the parent's"
        )
    trained = trained_length(parent)
    if config.model.position == "rotary" and config.context_length > trained * factor:
        print_note(
            f"context_length {config.context_length:,} is longer than the trained {trained:,} times the "
            f"factor {factor:g}; the weights were not trained at positions after {trained * factor:,.0f}."
        )


def scaling_factor(config: Config) -> tuple[str, float]:
    """Key of the option that extends the context, and its factor."""
    scaling = config.model.rope.scaling
    target = scaling.target_length or config.context_length
    if scaling.type == "longrope" and scaling.factor is None:
        target = scaling.max_position_embeddings or target
    elif scaling.type != "dynamic":
        return explicit_factor(config)
    return "the target length of model.rope.scaling", max(1.0, target / trained_length(config))


def explicit_factor(config: Config) -> tuple[str, float]:
    """The factor that the config sets, and its key."""
    rope = config.model.rope
    for key, value in (
        ("model.rope.scaling.factor", rope.scaling.factor),
        ("model.rope.theta_rescale_factor", rope.theta_rescale_factor),
    ):
        if value not in (None, 1):
            return key, value
    return "model.rope.interpolate_factor", rope.interpolate_factor


def trained_length(config: Config) -> int:
    """Context length before any scaling, in tokens."""
    _, factor = explicit_factor(config)
    original = config.model.rope.scaling.original_max_position_embeddings
    return original or max(1, round(config.context_length / factor))


def trained_grid(model: AxialViTConfig) -> tuple[int, ...]:
    """Rows and columns of patches before any scaling."""
    scaling = model.rope.scaling
    factors = scaling.factor or model.rope.interpolate_factor
    sizes = zip(model.grid, factors, strict=True)
    return scaling.original_max_position_embeddings or tuple(max(1, round(a / b)) for a, b in sizes)


def load_parent_weights(config: Config, model: keras.Model) -> None:
    """Assigns the weights of `init_from`, as `resample_positions` and `reset_head` ask for.

    Raises:
        RunError: if the parent has no such checkpoint, or was trained on other data than recorded.
    """
    path, parent = Path(config.init_from), load_run_config(Path(config.init_from))
    resamples = config.resample_positions and grid_of(config) != grid_of(parent)
    old = make_model(parent) if resamples or config.reset_head else model
    fingerprint = restore_weights(path, old, step=config.init_from_step)["data_fingerprint"]
    if fingerprint != config.init_from_data:
        raise RunError(
            f"init_from={config.init_from} has changed: init_from_data is {config.init_from_data}, "
            f"now it is {fingerprint}. Use name= for another run."
        )
    if old is model:
        return
    values = {variable.path: variable.value for variable in old.variables}
    for variable in model.variables:
        if config.reset_head and variable.path.startswith(f"{model.name}/head/"):
            continue
        value = values[variable.path]
        if resamples and "position_embedding" in variable.path:
            grid = tf.reshape(value, (*grid_of(parent), -1))  # (rows, columns, dim)
            value = tf.reshape(resample_grid(grid, *grid_of(config)), variable.shape)
            print_line(f"unlike init_from: {variable.path} is resampled from {describe_extent(parent)}")
        variable.assign(value)


def grid_of(config: Config) -> tuple[int, int]:
    """Rows and columns of the model's positions; a text is one row."""
    return (1, config.context_length) if config.context_length else config.model.grid
