"""What a run takes from the run that `init_from` names, and what it may have otherwise."""

from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from configs.schema import Config, ConfigError, differing_keys, load_config, there_and_here
from models.config import AxialViTConfig
from models.grid import resample_grid
from runs.load import make_model
from system.errors import RunError
from system.terminal import print_error
from training.checkpoints import restore_weights

# Keys of the model that a child may set otherwise, and why some others may not change.
FREE = (
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
    "model.rope.xpos": "the weights have learned with the decay of xPos, or without it",
    "model.rope.xpos_scale_base": "the weights have learned with this decay",
}
# Keys of a config that are null until the parent is read.
RECORDED = ("init_from_step", "init_from_data")


def parent_config(config: Config) -> Config:
    """The config of the run that `init_from` names."""
    path = Path(config.init_from) / "config.yaml"
    if not path.is_file():
        raise RunError(
            f"init_from={config.init_from} is not a run directory: it has no config.yaml. "
            "Train one: python train.py"
        )
    return load_config(path)


def with_values_of_parent(config: Config) -> Config:
    """With the values of the parent that are left open and that a child has in common with it.

    Raises:
        ConfigError: if the parent is another kind of model.
    """
    parent = parent_config(config)
    if type(config.model) is not type(parent.model):
        raise ConfigError(
            f"init_from={config.init_from} is a run of model.architecture {parent.model.architecture}, "
            f"not {config.model.architecture}"
        )
    if isinstance(config.model, AxialViTConfig):
        config = replace(config, model=filled(config.model, parent.model, ("patch_size",)))
        return scaled_from(config, length=trained_grid(parent.model))
    return scaled_from(config, length=trained_length(parent))


def filled(config, other, names: tuple[str, ...]):
    """A dataclass with the other's value of each of these fields that is null."""
    return replace(config, **{name: getattr(other, name) for name in names if getattr(config, name) is None})


def scaled_from(config: Config, *, length: int | tuple[int, ...] | None) -> Config:
    """With `length` as the context or grid that the scaling starts from, if it reads one and has none."""
    scaling = config.model.rope.scaling
    is_open = scaling.original_max_position_embeddings is None
    if config.init_from is None or not (is_open and scaling.reads("original_max_position_embeddings")):
        return config
    rope = replace(config.model.rope, scaling=replace(scaling, original_max_position_embeddings=length))
    return replace(config, model=replace(config.model, rope=rope))


def weights_of_parent(config: Config, model) -> Config:
    """Restores the weights of `init_from`; the config, with the parent's step and the hash of its data.

    Raises:
        ConfigError: naming each field of the model that differs and may not.
        RunError: if there are no such weights, or they are not those that the run has recorded.
    """
    parent = parent_config(config)
    check_fields(config, parent)
    check_positions(config, parent)
    if not isinstance(config.model, AxialViTConfig):
        check_factor(config, parent)
    manifest = restored(config, parent, model)
    facts = (manifest["step"], manifest["data_fingerprint"])
    for name, fact in zip(RECORDED, facts, strict=True):
        if getattr(config, name) not in (None, fact):
            raise RunError(
                f"init_from={config.init_from} has changed since: {name} is {getattr(config, name)}, "
                f"now it is {fact}. Use name= for another run."
            )
    return replace(config, **dict(zip(RECORDED, facts, strict=True)))


def check_fields(config: Config, parent: Config) -> None:
    """Prints the fields that differ and may; raises ConfigError for those that may not."""
    differing = []
    for difference in differing_keys(parent, config):
        key, words = difference[0], there_and_here(difference)
        if not key.startswith(("model.", "context_length")):
            continue
        if key.startswith(FREE):
            print(f"unlike init_from: {words}")
        else:
            differing.append(words + (f" ({REASONS[key]})" if key in REASONS else ""))
    if differing:
        raise ConfigError(
            f"the weights of init_from={config.init_from} are of another model: {'; '.join(differing)}"
        )


def check_positions(config: Config, parent: Config) -> None:
    """Raises ConfigError where absolute positions do not reach as far as the new context."""
    position = config.model.position
    if config.resample_positions and position != "learned":
        raise ConfigError(f"resample_positions has no effect with model.position={position}")
    if position == "learned" and not config.resample_positions and grid_of(config) != grid_of(parent):
        raise ConfigError(
            f"model.position=learned has weights for {reach(parent)} in init_from={config.init_from}, not "
            f"for {reach(config)}: set resample_positions=true to stretch them, or use rotary positions"
        )
    old, new = parent.context_length, config.context_length
    if position == "sinusoidal" and new and new > old:
        raise ConfigError(
            f"model.position=sinusoidal cannot be extended from {old} to {new}: the positions past {old} "
            "are new to the weights, and there is nothing to interpolate; use rotary positions"
        )


def reach(config: Config) -> str:
    """How far the positions of a model reach, in words."""
    if config.context_length:
        return f"{config.context_length} tokens"
    return "images of " + "x".join(map(str, config.model.image_size))


def check_factor(config: Config, parent: Config) -> None:
    """Raises ConfigError if the context is scaled by less than that of the parent; warns of new positions."""
    key, factor = scaling_factor(config)
    old_key, old_factor = scaling_factor(parent)
    if factor < old_factor:
        raise ConfigError(
            f"{key} counts from the context before any scaling: {old_key} is {old_factor:g} in "
            f"init_from={config.init_from}, got {factor:g}. {how_to_go_on(config, parent)}"
        )
    trained = trained_length(parent)
    if config.model.position == "rotary" and config.context_length > trained * factor:
        print_error(
            f"note: context_length {config.context_length:,} is longer than the trained {trained:,} times "
            f"the factor {factor:g}; positions past {trained * factor:,.0f} are new to the weights."
        )


def how_to_go_on(config: Config, parent: Config) -> str:
    """What to set for the scaling of the parent."""
    scaling = parent.model.rope.scaling
    if scaling.reads("target_length"):
        target = scaling.target_length or parent.context_length
        return (
            f"To go on as it is, set model.rope.scaling as in {config.init_from}/config.yaml, with "
            f"target_length={target}."
        )
    key, factor = given_factor(parent)
    kind = "" if scaling.type == "none" else f"model.rope.scaling.type={scaling.type} "
    return f"To go on as it is, set {kind}{key}={factor:g}; for twice its context {key}={2 * factor:g}."


def scaling_factor(config: Config) -> tuple[str, float]:
    """What makes the context longer, in words, and how many times."""
    length = stretched_length(config)
    if length is None:
        return given_factor(config)
    return "the stretch of model.rope.scaling", max(1.0, length / trained_length(config))


def stretched_length(config: Config) -> int | None:
    """The length to which a scaling stretches the context, if that is not by a factor that is given."""
    scaling = config.model.rope.scaling
    target = scaling.target_length or config.context_length
    if scaling.type == "dynamic":
        return target
    if scaling.type == "longrope" and scaling.factor is None:
        return scaling.max_position_embeddings or target
    return None


def given_factor(config: Config) -> tuple[str, float]:
    """The key that is set, and its value."""
    rope = config.model.rope
    for key, value in (
        ("model.rope.scaling.factor", rope.scaling.factor),
        ("model.rope.theta_rescale_factor", rope.theta_rescale_factor),
    ):
        if value not in (None, 1):
            return key, value
    return "model.rope.interpolate_factor", rope.interpolate_factor


def trained_length(config: Config) -> int:
    """Tokens of context that the weights of a run began with, before any scaling."""
    _, factor = given_factor(config)
    given = config.model.rope.scaling.original_max_position_embeddings
    return given or max(1, round(config.context_length / factor))


def trained_grid(model: AxialViTConfig) -> tuple[int, ...]:
    """Rows and columns of patches that the weights of a model began with, before any scaling."""
    scaling = model.rope.scaling
    factors = scaling.factor or model.rope.interpolate_factor
    divided = zip(model.grid, factors, strict=True)
    return scaling.original_max_position_embeddings or tuple(max(1, round(a / b)) for a, b in divided)


def restored(config: Config, parent: Config, model) -> dict:
    """Restores the parent's weights into the model; the manifest."""
    if not config.resample_positions or grid_of(config) == grid_of(parent):
        return restore_weights(Path(config.init_from), model, step=config.init_from_step)
    old = make_model(parent)
    manifest = restore_weights(Path(config.init_from), old, step=config.init_from_step)
    values = {variable.path: variable.value for variable in old.variables}
    for variable in model.variables:
        value = values[variable.path]
        if "position_embedding" in variable.path:
            grid = resample_grid(tf.reshape(value, (*grid_of(parent), -1)), *grid_of(config))
            value = tf.reshape(grid, variable.shape)
            print(f"unlike init_from: {variable.path} is resampled from {reach(parent)}")
        variable.assign(value)
    return manifest


def grid_of(config: Config) -> tuple[int, int]:
    """Rows and columns of the positions that a model knows; text is one row."""
    return (1, config.context_length) if config.context_length else config.model.grid
