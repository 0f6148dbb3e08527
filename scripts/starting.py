"""How a run begins: which config counts, and where its weights are from."""

import os
from dataclasses import replace
from pathlib import Path

from configs.schema import (
    Config,
    ConfigError,
    conflicting_keys,
    deciding_keys,
    load_config,
    there_and_here,
)
from models.config import AxialViTConfig
from scripts.loading import print_error
from scripts.parent import RECORDED, filled, scaled_from, weights_of_parent, with_values_of_parent
from training.environment import changes, environment
from training.errors import RunError
from training.hardware import resolve_compile, resolve_precision

# Keys of a vision model that are null until the images are seen.
OPEN_IN_IMAGES = ("image_size", "channels", "num_classes", "patch_size")


def settle(config: Config, recorded_path: Path) -> Config:
    """The config with its `auto` values decided, once it agrees with the one that the directory records.

    Raises:
        ConfigError: if the directory is that of another config.
    """
    asked = config.training
    precision, precision_reason = resolve_precision(asked.precision)
    compile_mode, compile_reason = resolve_compile(asked.compile)
    config = replace(config, training=replace(asked, precision=precision, compile=compile_mode))
    config = with_absolute_paths(config)
    if recorded_path.exists():
        recorded = load_config(recorded_path)
        config = with_open_values(config, recorded)
        check_config(recorded_path.parent, deciding_keys(recorded), config)
    elif config.init_from is not None:
        config = with_values_of_parent(config)
    print(f"precision {precision} ({precision_reason}), compile {compile_mode} ({compile_reason})")
    return config


def check_config(place: Path, recorded: dict, config: Config) -> None:
    """Raises ConfigError naming the keys that are recorded in a place with another value."""
    if conflicts := conflicting_keys(recorded, config):
        changed = "; ".join(map(there_and_here, conflicts))
        raise ConfigError(f"{place} is a run of another config: {changed}. Use name= for another run.")


def tell_of_another_environment(manifest: dict) -> None:
    """A note, if the bits of this run may depend on where it goes on."""
    now = environment()
    if changed := changes(manifest.get("environment", now), now):
        print_error(f"note: the last bits may differ from those of a run that stayed in one place: {changed}")


def with_absolute_paths(config: Config) -> Config:
    """With the places of the user's files, so that the run can go on from another directory."""
    if config.init_from is not None:
        config = replace(config, init_from=absolute(config.init_from))
    places = {key: getattr(config.data, key, None) for key in ("path", "data_dir", "cache_dir")}
    given = {key: absolute(place) for key, place in places.items() if place is not None}
    return replace(config, data=replace(config.data, **given))


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def with_open_values(config: Config, recorded: Config) -> Config:
    """With the values that an earlier start of this run found for what is left open."""
    if type(config.model) is not type(recorded.model):
        return config
    config = filled(config, recorded, RECORDED)
    if isinstance(config.model, AxialViTConfig):
        config = replace(config, model=filled(config.model, recorded.model, OPEN_IN_IMAGES))
    return scaled_from(config, length=recorded.model.rope.scaling.original_max_position_embeddings)


def start(task, model, checkpoints) -> tuple[Config, dict, str]:
    """The config to record, what is known of the steps done, and where the weights are from, in words.

    The first that applies: this run, `init_from`, scratch.
    """
    config, fingerprint = task.config, task.facts["data_fingerprint"]
    manifest = checkpoints.restore_latest()
    if manifest is not None:
        check_config(checkpoints.directory.parent, manifest.get("config", {}), config)
        if manifest["data_fingerprint"] != fingerprint:
            raise RunError(
                f"the data have changed since this run began: their SHA-256 was "
                f"{manifest['data_fingerprint'][:12]}, now it is {fingerprint[:12]}. "
                "Use name= for a run on the data of today."
            )
        tell_of_another_environment(manifest)
        return config, manifest, f"resuming after step {manifest['step']:,}"
    new = {"step": 0, "elapsed_seconds": 0.0}
    if config.init_from is None:
        return config, new, "training from scratch"
    config = weights_of_parent(config, model)
    return config, new, f"starting from step {config.init_from_step:,} of {config.init_from}"
