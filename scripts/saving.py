"""What a checkpoint of a run records beside its tensors."""

import hashlib
import json
from collections.abc import Callable

from configs.schema import Config, deciding_keys
from training.environment import environment


def make_save(task, config: Config, checkpoints, log) -> Callable[[int, dict], None]:
    """The function `(step, facts)` that saves a step, with what the loop knows of it."""
    keys = deciding_keys(config)
    of_the_run = {
        **task.facts,
        "config": keys,
        "config_sha256": hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest(),
        "environment": environment(),
    }

    def save(step: int, facts: dict) -> None:
        log.sync()
        seen = {task.unit: step * task.units_per_step, "elapsed_seconds": log.elapsed_seconds}
        checkpoints.save(step, {**seen, **facts, **of_the_run})

    return save
