"""How a run begins: which config counts, and where its weights are from.

Of several workers the chief decides, and tells the others.
"""

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from configs.builder import flatten
from configs.schema import (
    Config,
    ConfigError,
    conflicting_keys,
    deciding_keys,
    load_config,
    parse_config,
    there_and_here,
    to_dict,
)
from models.config import AxialViTConfig
from runs.load import Task, load_task
from runs.parent import RECORDED, filled, scaled_from, weights_of_parent, with_values_of_parent
from system.errors import RunError
from system.terminal import print_error
from training.hardware import (
    describe_environment,
    environment_changes,
    resolve_compile,
    resolve_precision,
)
from training.replicas import Replicas
from training.run_directory import RunDirectory

# Keys of a vision model that are null until the images are seen.
OPEN_IN_IMAGES = ("image_size", "channels", "num_classes", "patch_size")


def settle_together(
    config: Config, replicas: Replicas, directory: RunDirectory, stack: ExitStack
) -> tuple[Config, bool]:
    """The settled config of all workers, and whether the directory records it; the chief enters that.

    Raises:
        RunError: if a worker was started with another config.
    """
    replicas.check_same(flatten(to_dict(config)))

    def settled():
        stack.enter_context(directory)
        is_recorded = directory.config.exists()
        return to_dict(settle(config, directory.config)), is_recorded

    settled_config, is_recorded = replicas.from_chief(settled)
    return parse_config(settled_config), is_recorded


def load_together(config: Config, replicas: Replicas, *, is_recorded: bool) -> Task:
    """The task of all workers.

    Raises:
        RunError: if a worker has other data.
    """
    loaded = []

    def load_first():  # it may make a cache that the others share
        loaded.append(load_task(config, recorded=is_recorded))
        return loaded[0].facts["data_fingerprint"]

    replicas.from_chief(load_first)
    task = loaded[0] if loaded else load_task(config, report=lambda line: None, recorded=is_recorded)
    replicas.check_same({"data_fingerprint": task.facts["data_fingerprint"]})
    return task


def start_together(replicas: Replicas, task, model, checkpoints) -> tuple[Config, dict, str]:
    """What `start` gives the chief, and its weights, for all workers."""

    def started():
        config, manifest, origin = start(task, model, checkpoints)
        return to_dict(config), manifest, origin + other_draws(config, manifest, replicas.num_replicas)

    config, manifest, origin = replicas.from_chief(started)
    replicas.copy_from_chief(list(checkpoints.variables.values()))
    return parse_config(config), manifest, origin


def other_draws(config: Config, manifest: dict, num_replicas: int) -> str:
    """What dropout has to do with the number of replicas, where a run goes on with another one."""
    before = manifest.get("replicas", 1) if manifest["step"] else num_replicas
    if before == num_replicas or not max(config.model.dropout, getattr(config.model, "drop_path", 0)):
        return ""
    return (
        f"\nnote: dropout is drawn by replica, and there were {before}, now {num_replicas}: the weights will "
        "not be those of a run that goes on as it was"
    )


def settle(config: Config, recorded_path: Path) -> Config:
    """The config with its `auto` values decided, once it agrees with the one that the directory records.

    Raises:
        ConfigError: if the directory is that of another config.
    """
    precision, precision_reason = resolve_precision(config.precision)
    compile_mode, compile_reason = resolve_compile(config.compile)
    config = replace(config, precision=precision, compile=compile_mode)
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
    now = describe_environment()
    if changed := environment_changes(manifest.get("environment", now), now):
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
    new = {"step": 0}
    if config.init_from is None:
        return config, new, "training from scratch"
    config = weights_of_parent(config, model)
    return config, new, f"starting from step {config.init_from_step:,} of {config.init_from}"
