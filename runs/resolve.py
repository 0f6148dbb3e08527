"""Resolution of a config: values that depend on the hardware, the parent or the data."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs import schema
from configs.schema import Config
from data.config import BPE, BPE_VOCAB_SIZE, TOKENIZERS, TextConfig
from data.corpus import tokenizer_of
from data.tokenizer import FILE_NAME, read_tokenizer
from runs.load import Task, load_run_config, load_run_tokenizer, load_task
from system.errors import ConfigError
from system.text import print_line, print_note
from training.checkpoints import complete_checkpoints, read_latest_manifest
from training.hardware import describe_device, resolve_compile, resolve_precision
from training.replicas import Replicas
from training.run_log import RunDirectory

# Keys of the model that are null until the images or the tokenizer have been read, or the parent.
OPEN_MODEL_KEYS = ("image_size", "channels", "num_classes", "patch_size", "vocab_size")
# Keys of the model that a child may change.
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


@dataclass(frozen=True)
class Run:
    """Run with a resolved config."""

    config: Config  # without `auto`, and without null where the parent or the data determine the value
    task: Task
    directory: RunDirectory
    replicas: Replicas

    @property
    def units_per_step(self) -> int:
        """Tokens, or images, in a batch."""
        return self.config.batch_size * (self.config.context_length or 1)


def resolve(config: Config, directory: RunDirectory, replicas: Replicas) -> Run:
    """Resolves the open values of a config; the chief of several workers resolves them for all."""
    replicas.check_same(schema.to_flat(config))
    is_recorded = replicas.from_chief(directory.config.exists)
    config = replicas.from_chief(
        lambda: resolve_config(config, directory.config), encode=schema.to_dict, decode=schema.parse_config
    )
    load = partial(load_task, config, run_directory=directory.path if is_recorded else None)
    # The chief first, since it may write a cache.
    task = replicas.from_chief(load, encode=lambda _: None) or load(report=lambda line: None)
    replicas.check_same({"data_fingerprint": task.facts["data_fingerprint"]})
    check_tokenizer(task, directory)
    if config.init_from is not None:
        replicas.from_chief(lambda: check_parent(task.config, directory))
    return Run(task.config, task, directory, replicas)


def check_tokenizer(task: Task, directory: RunDirectory) -> None:
    """Raises ConfigError if the config names a file with another tokenizer than that of an existing run."""
    path = None if task.tokenizer is None else task.config.data.tokenizer
    if path in (None, *TOKENIZERS) or not os.path.exists(path):
        return  # the run has a copy
    if read_tokenizer(path).sha256 != task.tokenizer.sha256:
        raise ConfigError(
            f"data.tokenizer={path} differs from {directory.tokenizer}: for another run, set name=NEW"
        )


def resolve_config(config: Config, recorded_path: Path) -> Config:
    """Resolves `auto` values, compares the config with the recorded one, and fills in the parent's values."""
    precision, precision_reason = resolve_precision(config.precision)
    compile_mode, compile_reason = resolve_compile(config.compile)
    config = replace(config, precision=precision, compile=compile_mode)
    config = schema.replace_places(config, os.path.abspath)  # the run resumes from any working directory
    if recorded_path.exists():
        recorded = load_run_config(recorded_path.parent)
        config = fill_from_record(config, recorded)
        check_recorded(recorded_path.parent, schema.deciding_keys(recorded), config)
        for difference in schema.differing_keys(recorded, config):
            if difference[0] in schema.PLACES:
                print_note(f"{recorded_path.parent}: {schema.describe_difference(difference)}")
    elif config.init_from is not None:
        config = fill_from_parent(config)
    elif isinstance(config.data, TextConfig) and config.data.tokenizer is None:
        config = replace(config, data=replace(config.data, tokenizer=BPE))
    device = config.distribute.strategy if config.distribute.strategy != "none" else describe_device()
    choices = f"precision {precision} ({precision_reason}), compile {compile_mode} ({compile_reason})"
    print_line(f"device: {device}, {choices}")
    return config


def check_recorded(place: Path, recorded: dict, config: Config) -> None:
    """Raises ConfigError with the keys whose recorded values differ."""
    if conflicts := schema.conflicting_keys(recorded, config):
        changes = "; ".join(map(schema.describe_difference, conflicts))
        raise ConfigError(
            f"{place} is a run of another config: {changes}. For another run, set name=NEW; "
            f"init_from={place} starts it from these weights"
        )


def fill_from_record(config: Config, recorded: Config) -> Config:
    """Fills in the open values that an earlier start of this run recorded."""
    if type(config.model) is not type(recorded.model):
        return config
    if config.init_from == recorded.init_from:
        config = fill_missing(config, recorded, "init_from_step", "init_from_data")
    elif config.init_from is not None:  # a moved parent; of another one, the step or data conflict
        config = fill_from_parent(fill_missing(config, recorded, "init_from_step"))
    model = fill_missing(config.model, recorded.model, *OPEN_MODEL_KEYS)
    config = replace(config, model=model, data=fill_missing(config.data, recorded.data, "tokenizer"))
    return fill_original_length(config, recorded.model.rope.scaling.original_max_position_embeddings)


def fill_from_parent(config: Config) -> Config:
    """Fills in the open values that a new run takes from its parent, and records the parent's checkpoint."""
    path = Path(config.init_from)
    parent = load_run_config(path)
    config = inherit(config, parent)
    if config.context_length:
        config = inherit_tokenizer(config, parent)
    _, manifest = read_latest_manifest(path, step=config.init_from_step)
    fingerprint = config.init_from_data or manifest["data_fingerprint"]
    return replace(config, init_from_step=manifest["step"], init_from_data=fingerprint)


def inherit(config: Config, parent: Config) -> Config:
    """Fills in the patch size, and the context or grid from which the scaling starts."""
    if type(config.model) is not type(parent.model):
        raise ConfigError(
            f"init_from={config.init_from} is a run of model.architecture {parent.model.architecture}, "
            f"not {config.model.architecture}"
        )
    config = replace(config, model=fill_missing(config.model, parent.model, "patch_size"))
    return fill_original_length(config, trained_length(parent))


def inherit_tokenizer(config: Config, parent: Config) -> Config:
    """Fills in the tokenizer of the parent; raises ConfigError if the config names another."""
    tokenizer, name = load_run_tokenizer(Path(config.init_from), parent), config.data.tokenizer
    if getattr(config.data, "bpe_vocab_size", BPE_VOCAB_SIZE) != BPE_VOCAB_SIZE:
        raise ConfigError("data.bpe_vocab_size has no effect with init_from, whose tokenizer is kept")
    if name is None:
        name = "bytes" if tokenizer.json is None else str(Path(config.init_from, FILE_NAME))
    elif name == BPE or tokenizer_of(config.data).sha256 != tokenizer.sha256:
        raise ConfigError(
            f"data.tokenizer={name} is another tokenizer than that of {config.init_from}: leave it out"
        )
    return replace(config, data=replace(config.data, tokenizer=name))


def fill_missing(options, other, *names: str):
    """Copy of a dataclass in which those of these fields that are null have the values of `other`."""
    missing = [name for name in names if getattr(options, name, "") is None]
    return replace(options, **{name: getattr(other, name) for name in missing})


def fill_original_length(config: Config, length: int | tuple[int, ...] | None) -> Config:
    """Fills in the context, or the grid, from which the scaling starts, if the scaling reads it."""
    scaling = config.model.rope.scaling
    if config.init_from is None or not scaling.reads("original_max_position_embeddings"):
        return config
    length = scaling.original_max_position_embeddings or length
    scaling = replace(scaling, original_max_position_embeddings=length)
    return replace(config, model=replace(config.model, rope=replace(config.model.rope, scaling=scaling)))


def trained_length(config: Config) -> int | tuple[int, ...]:
    """Context before any scaling: tokens, or rows and columns of patches."""
    rope, scaling = config.model.rope, config.model.rope.scaling
    if scaling.original_max_position_embeddings:
        return scaling.original_max_position_embeddings
    if config.context_length:
        return max(1, round(config.context_length / scaling_factor(config)))
    factors = scaling.factor or rope.interpolate_factor
    sides = zip(config.model.grid, factors, strict=True)
    return tuple(max(1, round(side / factor)) for side, factor in sides)


def scaling_factor(config: Config) -> float:
    """Product of the factors of a text."""
    rope = config.model.rope
    return rope.interpolate_factor * rope.theta_rescale_factor * (rope.scaling.factor or 1)


def extended_length(config: Config, trained: int) -> float:
    """Tokens to which the scaling extends a context of `trained` tokens."""
    scaling = config.model.rope.scaling
    target = scaling.target_length or config.context_length
    if scaling.type == "longrope" and scaling.factor is None:
        target = scaling.max_position_embeddings or target
    elif scaling.type != "dynamic":
        return trained * scaling_factor(config)
    return max(trained, target)


def check_parent(config: Config, directory: RunDirectory) -> None:
    """Prints which options of the model differ from `init_from`; ConfigError if its weights do not fit."""
    if complete_checkpoints(directory.checkpoints):  # the run has weights of its own
        return
    parent = load_run_config(Path(config.init_from))
    check_options(config, parent)
    check_positions(config, parent)
    if config.context_length:
        check_extension(config, parent)


def check_options(config: Config, parent: Config) -> None:
    problems = []
    for key, *values in schema.differing_keys(parent, config):
        words = schema.describe_difference((key, *values))
        if key.startswith(CHANGEABLE) or (key == "model.num_classes" and config.reset_head):
            print_line(f"unlike init_from: {words}")
        elif key.startswith("model."):
            if key == "model.num_classes":
                words += " (reset_head=true takes all weights but the classifier)"
            problems.append(words)
    if problems:
        raise ConfigError(
            f"the weights of init_from={config.init_from} are of another model: {'; '.join(problems)}. "
            "Leave out what sets these keys to take the model of init_from"
        )


def check_positions(config: Config, parent: Config) -> None:
    """Raises ConfigError if learned positions do not cover the new context or grid."""
    position, old, new = config.model.position, grid_of(parent), grid_of(config)
    if config.resample_positions and position != "learned":
        raise ConfigError(f"resample_positions has no effect with model.position={position}")
    if position == "learned" and not config.resample_positions and new != old:
        raise ConfigError(
            f"model.position=learned has weights for {describe_grid(old)} in init_from={config.init_from}, "
            f"not for {describe_grid(new)}: set resample_positions=true to resample them"
        )


def check_extension(config: Config, parent: Config) -> None:
    """Raises ConfigError if the scaling extends less than the parent's; notes positions beyond both."""
    trained = trained_length(parent)
    old, new = extended_length(parent, trained), extended_length(config, trained)
    if new < old:
        raise ConfigError(
            f"model.rope extends the trained {trained:,} tokens to {new:,.0f}, that of "
            f"init_from={config.init_from} to {old:,.0f}: a factor is relative to the context before scaling"
        )
    if config.model.position in ("rotary", "sinusoidal") and config.context_length > new:
        print_note(
            f"context_length {config.context_length:,} is longer than the {new:,.0f} tokens to which "
            f"model.rope extends the trained {trained:,}; positions after them are extrapolation."
        )


def grid_of(config: Config) -> tuple[int, int]:
    """Rows and columns of the model's positions; a text is one row."""
    return (1, config.context_length) if config.context_length else config.model.grid


def describe_grid(grid: tuple[int, int]) -> str:
    return f"{grid[1]} tokens" if grid[0] == 1 else f"{grid[0]}x{grid[1]} patches"
