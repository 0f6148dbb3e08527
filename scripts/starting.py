"""How a run begins: which config counts, and where its weights are from."""

import os
from dataclasses import replace
from pathlib import Path

from configs.schema import Config, ConfigError, conflicting_keys, differing_keys, load_config
from data.config import TextFilesConfig
from training.checkpoints import restore_weights
from training.errors import RunError
from training.hardware import resolve_compile, resolve_precision

# Keys of the model that a run may set otherwise than the run it takes its weights from.
FREE_OF_PARENT = (
    "context_length",
    "model.dropout",
    "model.rope.interpolate_factor",
    "model.rope.theta_rescale_factor",
    "model.rope.scaling.",
)


def settle(config: Config, recorded_path: Path) -> Config:
    """The config with its `auto` values decided, once it agrees with the one that the directory records.

    Raises:
        ConfigError: if the directory is that of another config.
    """
    asked = config.training
    precision, precision_reason = resolve_precision(asked.precision)
    compile_mode, compile_reason = resolve_compile(asked.compile, precision)
    config = replace(config, training=replace(asked, precision=precision, compile=compile_mode))
    config = scaled_from_parent(with_absolute_path(config))
    if recorded_path.exists():
        conflicts = conflicting_keys(load_config(recorded_path), config)
        if conflicts:
            changes = "; ".join(f"{key} is {old} there, {new} here" for key, old, new in conflicts)
            raise ConfigError(
                f"{recorded_path.parent} is a run of another config: {changes}. Use name= for another run."
            )
    print(f"precision {precision} ({precision_reason}), compile {compile_mode} ({compile_reason})")
    return config


def with_absolute_path(config: Config) -> Config:
    """With the place of the user's files, so that the run can be evaluated from another directory."""
    if not isinstance(config.data, TextFilesConfig):
        return config
    path = os.path.abspath(os.path.expanduser(config.data.path))
    return replace(config, data=replace(config.data, path=path))


def scaled_from_parent(config: Config) -> Config:
    """With `init_from`, the length that a scaling starts from is the parent's context, unless it is given."""
    scaling = config.model.rope.scaling
    is_open = scaling.original_max_position_embeddings is None
    if config.init_from is None or not (is_open and scaling.reads("original_max_position_embeddings")):
        return config
    parent = load_config(Path(config.init_from) / "config.yaml")
    scaling = replace(scaling, original_max_position_embeddings=parent.context_length)
    rope = replace(config.model.rope, scaling=scaling)
    return replace(config, model=replace(config.model, rope=rope))


def start(config: Config, model, checkpoints, *, fingerprint: str) -> tuple[dict, str]:
    """What is known of the steps already done, and where the weights are from, in words.

    The first that applies: this run, `init_from`, scratch.
    """
    manifest = checkpoints.restore_latest()
    if manifest is not None:
        if manifest["data_fingerprint"] != fingerprint:
            raise RunError(
                f"the text has changed since this run began: its SHA-256 was "
                f"{manifest['data_fingerprint'][:12]}, now it is {fingerprint[:12]}. "
                "Use name= for a run on the text of today."
            )
        return manifest, f"resuming after step {manifest['step']:,}"
    new = {"step": 0, "elapsed_seconds": 0.0}
    if config.init_from is None:
        return new, "training from scratch"
    return new, f"starting from step {weights_of_parent(config, model):,} of {config.init_from}"


def weights_of_parent(config: Config, model) -> int:
    """Restores the weights of `init_from`; the parent's step.

    Raises:
        ConfigError: naming each field of the model that differs and may not.
    """
    parent = Path(config.init_from)
    if not (parent / "config.yaml").is_file():
        raise RunError(f"init_from={parent} is not a run directory: it has no config.yaml.")
    differing = [
        f"{key} is {old} there, {new} here"
        for key, old, new in differing_keys(load_config(parent / "config.yaml"), config)
        if key.startswith("model.") and not key.startswith(FREE_OF_PARENT)
    ]
    if differing:
        raise ConfigError(f"the weights of init_from={parent} are of another model: {'; '.join(differing)}")
    return restore_weights(parent, model)["step"]
