"""Training loop of all tasks."""

import time
from collections.abc import Callable, Iterable

import tensorflow as tf

from system.errors import DivergedError
from training.config import TrainingConfig
from training.run_log import RunLog
from training.signals import StopRequest
from training.step import StepResult


class BadSteps:
    """Number of steps whose loss or gradient was not finite.

    A checkpoint records `counts`, so that a resumed run stops at the same step as an uninterrupted one.

    Args:
        max_in_a_row: number of bad steps in a row that ends the run.
        counts: counts recorded in the checkpoint.
    """

    def __init__(self, max_in_a_row: int, counts: dict[str, int] | None = None):
        self.max_in_a_row = max_in_a_row
        self.counts = {"in_a_row": 0, "in_all": 0} | (counts or {})

    def count(self, done: int, *, loss: float, norm: float, finite: bool) -> None:
        """Counts the last one of `done` steps.

        Raises:
            DivergedError: after `max_in_a_row` bad steps in a row.
        """
        in_a_row = 0 if finite else self.counts["in_a_row"] + 1
        self.counts = {"in_a_row": in_a_row, "in_all": self.counts["in_all"] + (not finite)}
        if in_a_row >= self.max_in_a_row:
            raise DivergedError(
                f"step {done:,}: loss {loss}, gradient norm {norm}; {in_a_row} steps in a row without "
                "finite values",
                good_step=done - in_a_row,
            )


def train(
    train_step: Callable[..., StepResult],
    batches: Iterable,
    *,
    config: TrainingConfig,
    start_step: int,
    bad_steps: BadSteps,
    log: RunLog,
    validate: Callable[[], dict[str, float]],
    sample: Callable[[], dict],
    save: Callable[[int, dict], None],
    agree: Callable[[int], int] = int,
) -> tuple[int, int]:
    """Runs the steps after `start_step`; Ctrl-C, SIGTERM, SIGHUP or `max_minutes` stop it after a saved step.

    Args:
        train_step: from `make_train_step`.
        batches: `(inputs, targets)` of step `start_step` and on.
        validate: returns metrics on a part of the held-out data.
        sample: samples the model; returns values to log.
        save: writes the checkpoint of a step, with facts for its manifest.
        agree: returns the largest exit code of all workers.

    Returns:
        Number of steps done in the whole run, and the exit code of a stopped run, or 0.

    Raises:
        DivergedError: after too many bad steps in a row, or if `save` finds weights that are not finite.
    """
    done, save_is_due = start_step, False
    with StopRequest(config.max_minutes) as stop:
        for step, (inputs, targets) in zip(range(start_step, config.num_steps), batches, strict=False):
            started = time.perf_counter()
            result = train_step(tf.constant(step), inputs, targets)
            loss, norm, finite = float(result.loss), float(result.gradient_norm), bool(result.finite)
            log.step_took(time.perf_counter() - started, loss)
            done = step + 1
            bad_steps.count(done, loss=loss, norm=norm, finite=finite)
            metrics = {}
            if not finite:
                log.say(f"step {done:,}: loss {loss}, gradient norm {norm}; skipped")
                metrics |= {"skipped_steps": bad_steps.counts["in_all"]}
            elif done % config.log_every == 0 or done in (1, config.num_steps):
                metrics |= {"loss": loss, "gradient_norm": norm, "learning_rate": float(result.learning_rate)}
            if is_due(done, config.eval_every, config):
                metrics |= validate()
            if is_due(done, config.sample_every, config):
                metrics |= sample()
            if metrics:
                log.write(done, metrics)
            stop_code = agree(stop.code)
            save_is_due |= done % config.checkpoint_every == 0
            # No save during bad steps: the run may have to return to a checkpoint before them.
            if (save_is_due and finite) or done == config.num_steps or stop_code:
                facts = {key: metrics[key] for key in ("validation_loss",) if key in metrics}
                save(done, {**facts, "bad_steps": bad_steps.counts})
                save_is_due = False
            if stop_code:
                break
        return done, agree(stop.code) if done > start_step else 0


def is_due(done: int, every: int | None, config: TrainingConfig) -> bool:
    """Whether an action with interval `every` is due after `done` steps; never after the last step."""
    return bool(every) and done % every == 0 and done < config.num_steps
