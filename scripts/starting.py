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
    config = with_absolute_paths(config)
    if recorded_path.exists():
        recorded = load_config(recorded_path)
        config = scaled_from(config, length=recorded.model.rope.scaling.original_max_position_embeddings)
        conflicts = conflicting_keys(recorded, config)
        if conflicts:
            changes = "; ".join(f"{key} is {old} there, {new} here" for key, old, new in conflicts)
            raise ConfigError(
                f"{recorded_path.parent} is a run of another config: {changes}. Use name= for another run."
            )
    elif config.init_from is not None:
        config = scaled_from(config, length=parent_config(config).context_length)
    print(f"precision {precision} ({precision_reason}), compile {compile_mode} ({compile_reason})")
    return config


def with_absolute_paths(config: Config) -> Config:
    """With the places of the user's files, so that the run can go on from another directory."""
    if config.init_from is not None:
        config = replace(config, init_from=absolute(config.init_from))
    if isinstance(config.data, TextFilesConfig):
        config = replace(config, data=replace(config.data, path=absolute(config.data.path)))
    return config


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def scaled_from(config: Config, *, length: int | None) -> Config:
    """With `length` as the context that the scaling starts from, if it reads one and none is given."""
    scaling = config.model.rope.scaling
    is_open = scaling.original_max_position_embeddings is None
    if config.init_from is None or not (is_open and scaling.reads("original_max_position_embeddings")):
        return config
    rope = replace(config.model.rope, scaling=replace(scaling, original_max_position_embeddings=length))
    return replace(config, model=replace(config.model, rope=rope))


def parent_config(config: Config) -> Config:
    """The config of the run that `init_from` names."""
    path = Path(config.init_from) / "config.yaml"
    if not path.is_file():
        raise RunError(f"init_from={config.init_from} is not a run directory: it has no config.yaml.")
    return load_config(path)


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
    of_model = [
        (key, f"{key} is {old} there, {new} here")
        for key, old, new in differing_keys(parent_config(config), config)
        if key.startswith("model.") or key == "context_length"
    ]
    bounded = ("context_length",) if config.model.position != "learned" else ()
    free = FREE_OF_PARENT + bounded
    differing = [words for key, words in of_model if not key.startswith(free)]
    if differing:
        raise ConfigError(f"the weights of init_from={parent} are of another model: {'; '.join(differing)}")
    for _, words in of_model:
        print(f"unlike init_from: {words}")
    return restore_weights(parent, model)["step"]
