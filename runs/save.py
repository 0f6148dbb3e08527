"""What a checkpoint of a run records beside its tensors, and how a run goes back to one."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.schema import Config, deciding_keys
from system.errors import DivergedError
from training.hardware import describe_environment


def make_save(task, config: Config, checkpoints, log, *, replicas: int) -> Callable[[int, dict], None]:
    """The function `(step, facts)` that saves a step, with what the loop knows of it."""
    keys = deciding_keys(config)
    of_the_run = {
        **task.facts,
        "config": keys,
        "config_sha256": hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest(),
        "environment": describe_environment(),
        "replicas": replicas,
    }

    def save(step: int, facts: dict) -> None:
        log.directory.check_owned()
        log.sync()
        seen = {task.unit: step * task.units_per_step, "elapsed_seconds": log.elapsed_seconds}
        checkpoints.save(step, {**seen, **facts, **of_the_run})

    return save


@contextlib.contextmanager
def going_back(config: Config, checkpoints, run: Path) -> Iterator[None]:
    """A run that diverges inside goes back to its last good checkpoint, and says what to try from there."""
    try:
        yield
    except DivergedError as error:
        step = checkpoints.go_back(error.good_step)
        there = "There is no checkpoint before it"
        changes = ["name=another"]
        if step is not None:
            there = f"The run is back at its checkpoint of step {step:,}"
            changes.append(f"init_from={run}")
        changes.append(" or ".join(remedies_for(config)))
        error.args = (f"{error}. {there}. Try the same command with {' '.join(changes)}",)
        raise


def remedies_for(config: Config) -> list[str]:
    """Changes under which a run is less apt to diverge."""
    optimizer = config.optimizer
    return [
        f"optimizer.learning_rate={optimizer.learning_rate / 3:.1g}",
        f"optimizer.warmup_steps={max(100, 3 * optimizer.warmup_steps)}",
        *["precision=float32"] * (config.precision != "float32"),
    ]
