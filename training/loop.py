"""The training loop, one for both tasks."""

import time
from collections.abc import Callable, Iterable

import tensorflow as tf

from training.config import TrainingConfig
from training.errors import DivergedError
from training.run_log import RunLog
from training.signals import StopRequest
from training.step import StepResult


def train(
    train_step: Callable[..., StepResult],
    batches: Iterable,
    *,
    config: TrainingConfig,
    start_step: int,
    log: RunLog,
    validate: Callable[[], dict[str, float]],
    sample: Callable[[], dict],
    save: Callable[[int], None],
) -> tuple[int, bool]:
    """Runs the steps that are left; at which step it ended, and whether because it was asked to.

    Ctrl-C or SIGTERM ends the step, saves, and returns; a second one acts at once.

    Args:
        train_step: from `make_train_step`.
        batches: `(inputs, targets)` of step `start_step` and on.
        config: number of steps and what happens how often.
        start_step: steps already done.
        log: told of every step.
        validate: what is measured on a part of the held-out data, by name.
        sample: shows what the model makes; what of it is to be logged, by name.
        save: writes the checkpoint of a step.

    Raises:
        DivergedError: at a loss or gradient that is not finite, before it is applied.
    """
    done = start_step
    with StopRequest() as stop:
        for step, (inputs, targets) in zip(range(start_step, config.num_steps), batches, strict=False):
            started = time.perf_counter()
            result = train_step(tf.constant(step), inputs, targets)
            loss, norm, finite = float(result.loss), float(result.gradient_norm), bool(result.finite)
            if not finite:
                raise DivergedError(
                    f"step {step + 1}: loss {loss}, gradient norm {norm}; weights are as after step {step}. "
                    "Try a lower optimizer.learning_rate, more optimizer.warmup_steps, or precision=float32."
                )
            log.step_took(time.perf_counter() - started, loss)
            done = step + 1
            metrics = {}
            if done % config.log_every == 0 or done in (1, config.num_steps):
                metrics |= {"loss": loss, "gradient_norm": norm, "learning_rate": float(result.learning_rate)}
            if done % config.eval_every == 0 and done < config.num_steps:
                metrics |= validate()
            if config.sample_every and done % config.sample_every == 0 and done < config.num_steps:
                metrics |= sample()
            if metrics:
                log.write(done, metrics)
            stopping = stop.requested
            if done % config.checkpoint_every == 0 or done == config.num_steps or stopping:
                save(done)
            if stopping:
                break
        return done, stop.requested
