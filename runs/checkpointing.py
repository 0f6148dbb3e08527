"""Facts that a checkpoint of a run records, and restoring a run from a checkpoint."""

import contextlib
from collections.abc import Callable, Iterator

import keras

from configs.compose import save_config
from configs.schema import Config, deciding_keys
from runs.parent import load_parent_weights
from runs.resolve import Run, check_recorded
from system.errors import DivergedError, RunError
from system.files import write_text
from system.text import print_note
from training.checkpoints import Checkpoints
from training.hardware import describe_environment, environment_changes
from training.run_log import RunLog


def restore(run: Run, model: keras.Model, checkpoints: Checkpoints) -> dict:
    """Restores this run's latest checkpoint, or else the weights of `init_from`, if any.

    Returns:
        The manifest of the checkpoint; of a new run, `{"step": 0}`. Its `origin` is the source of the
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


def check_manifest(manifest: dict, run: Run) -> None:
    """Raises ConfigError or RunError for a checkpoint of another config or data; notes its environment."""
    check_recorded(run.directory.path, manifest["config"], run.config)
    old, new = manifest["data_fingerprint"], run.task.facts["data_fingerprint"]
    if old != new:
        raise RunError(
            f"the data have changed since this run began: their SHA-256 was {old[:12]}, "
            f"now it is {new[:12]}. "
            "To use the current data, start a new run: name=NEW"
        )
    if changes := environment_changes(manifest["environment"], describe_environment()):
        print_note(f"results may differ in the last bits from an uninterrupted run: {changes}")
    before, now = manifest["replicas"], run.replicas.num_replicas
    if before != now and max(run.config.model.dropout, getattr(run.config.model, "drop_path", 0)):
        print_note(
            f"dropout is drawn per replica; there were {before}, now {now}: the weights will differ from "
            "those of an uninterrupted run"
        )


def make_save(run: Run, checkpoints: Checkpoints, log: RunLog) -> Callable[[int, dict], None]:
    """Function `save(step, facts)` that writes a checkpoint; `facts` are values from the loop."""
    task = run.task
    constant = {
        **task.facts,
        "config": deciding_keys(run.config),
        "environment": describe_environment(),
        "replicas": run.replicas.num_replicas,
    }

    def save(step: int, facts: dict) -> None:
        run.directory.check_owned()
        log.sync()
        progress = {task.unit: step * run.units_per_step, "elapsed_seconds": log.elapsed_seconds}
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
        step = checkpoints.go_back(error.good_step)
        state = "There is no checkpoint before it"
        changes = ["name=another"]
        if step is not None:
            state = f"The run is back at its checkpoint of step {step:,}"
            changes.append(f"init_from={run.directory.path}")
        changes.append(" or ".join(remedies(run.config)))
        error.args = (f"{error}. {state}. Try the same command with {' '.join(changes)}",)
        raise


def remedies(config: Config) -> list[str]:
    """Changes that make divergence less likely."""
    changes = [
        f"optimizer.learning_rate={config.optimizer.learning_rate / 3:.1g}",
        f"optimizer.warmup_steps={max(100, 3 * config.optimizer.warmup_steps)}",
    ]
    return changes if config.precision == "float32" else [*changes, "precision=float32"]
