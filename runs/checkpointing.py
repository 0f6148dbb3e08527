"""Facts that a checkpoint of a run records, and restoring a run from a checkpoint."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf

from configs.compose import save_config
from configs.schema import Config, deciding_keys
from models.position_embeddings import resize
from runs.load import load_run_config, make_model
from runs.resolve import Run, check_recorded, describe_grid, grid_of
from system.errors import DivergedError, RunError
from system.files import write_text
from system.text import print_line, print_note
from training.checkpoints import Checkpoints, restore_weights
from training.hardware import describe_environment, environment_changes
from training.run_log import RunLog


def restore(run: Run, model: keras.Model, checkpoints: Checkpoints) -> dict:
    """Restores this run's latest checkpoint, or else the weights of `init_from`, if any.

    Returns the manifest of the checkpoint; of a new run, `{"step": 0}`. Its `origin` is the source of the
    weights.
    """
    config = run.config
    manifest = checkpoints.restore_latest(is_new=not run.directory.config.exists())  # the first one writes it
    if manifest is not None:
        check_manifest(manifest, run)
        return manifest | {"origin": f"resuming after step {manifest['step']:,}"}
    if config.init_from is None:
        return {"step": 0, "origin": "training from scratch"}
    load_parent_weights(config, model)
    return {"step": 0, "origin": f"starting from step {config.init_from_step:,} of {config.init_from}"}


def load_parent_weights(config: Config, model: keras.Model) -> None:
    """Assigns the weights of `init_from`, as `resample_positions` and `reset_head` ask for.

    Raises RunError if the parent has no such checkpoint, or was trained on other data than recorded.
    """
    path, parent = Path(config.init_from), load_run_config(Path(config.init_from))
    old_grid, grid = grid_of(parent), grid_of(config)
    resamples = config.resample_positions and grid != old_grid
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
            value = tf.reshape(value, (*old_grid, -1))  # (rows, columns, dim)
            value = tf.reshape(resize(value, grid, axes=(0, 1), method="cubic"), variable.shape)
            print_line(f"unlike init_from: {variable.path} is resampled from {describe_grid(old_grid)}")
        variable.assign(value)


def check_manifest(manifest: dict, run: Run) -> None:
    """Raises ConfigError or RunError for a checkpoint of another config or data; notes its environment."""
    check_recorded(run.directory.path, manifest["config"], run.config)
    old, new = manifest["data_fingerprint"], run.task.facts["data_fingerprint"]
    if old != new:
        raise RunError(
            f"the data have changed since this run began: SHA-256 {old[:12]}, now {new[:12]}. To use the "
            "current data, start a new run: name=NEW"
        )
    if changes := environment_changes(manifest["environment"], describe_environment()):
        print_note(f"results may differ in the last bits from an uninterrupted run: {changes}")
    before, now = manifest["replicas"], run.replicas.num_replicas
    if before != now and max(run.config.model.dropout, getattr(run.config.model, "drop_path", 0)):
        print_note(f"dropout is drawn per replica; there were {before}, now {now}: the weights will differ")


def constant_facts(run: Run) -> dict:
    """Facts in every checkpoint of a run."""
    return {
        **run.task.facts,
        "config": deciding_keys(run.config),
        "environment": describe_environment(),
        "replicas": run.replicas.num_replicas,
    }


def make_save(run: Run, checkpoints: Checkpoints, log: RunLog) -> Callable[[int, dict], None]:
    """Function `save(step, facts)` that writes a checkpoint; `facts` are values from the loop."""
    constant = constant_facts(run)

    def save(step: int, facts: dict) -> None:
        run.directory.check_owned()
        log.sync()
        progress = {run.task.unit: step * run.units_per_step, "elapsed_seconds": log.elapsed_seconds}
        checkpoints.save(step, {**progress, **facts, **constant})
        if not run.directory.config.exists():
            record(run)

    return save


def record(run: Run) -> None:
    """Writes the tokenizer and the config of a run that has a checkpoint."""
    tokenizer = run.task.tokenizer
    if tokenizer is not None and tokenizer.json is not None:
        write_text(run.directory.tokenizer, tokenizer.json)
    save_config(run.config, run.directory.config)  # after the tokenizer, which it requires


@contextlib.contextmanager
def reverting_on_divergence(run: Run, checkpoints: Checkpoints) -> Iterator[None]:
    """Returns a run that diverges inside to its last good checkpoint, and adds advice to the error."""
    try:
        yield
    except DivergedError as error:
        state, changes = "There is no checkpoint before it", "name=another"
        if (step := checkpoints.go_back(error.good_step)) is not None:
            state = f"The run is back at its checkpoint of step {step:,}"
            changes += f" init_from={run.directory.path}"
        rate = f"optimizer.learning_rate={run.config.optimizer.learning_rate / 3:.1g}"
        error.args = (f"{error}. {state}. Try the same command with {changes} {rate}",)
        raise
