"""The training loop, one for both tasks."""

import time
from collections.abc import Callable, Iterable

import tensorflow as tf

from training.config import TrainingConfig
from training.divergence import BadSteps
from training.run_log import RunLog
from training.signals import StopRequest
from training.step import StepResult


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
    """Runs the steps that are left; at which step it ended, and the exit code if it was asked to stop, or 0.

    Ctrl-C, SIGTERM, SIGHUP or the end of `max_minutes` ends the step, saves, and returns.

    Args:
        train_step: from `make_train_step`.
        batches: `(inputs, targets)` of step `start_step` and on.
        config: number of steps and what happens how often.
        start_step: steps already done.
        bad_steps: counted in them.
        log: told of every step.
        validate: what is measured on a part of the held-out data, by name.
        sample: shows what the model makes; what of it is to be logged, by name.
        save: writes the checkpoint of a step, with facts for its manifest.
        agree: the largest of the exit codes of all processes of the run.

    Raises:
        DivergedError: after too many steps in a row that were skipped, or if `save` finds weights that are
            not finite.
    """
    done, save_is_due = start_step, False
    with StopRequest(config.max_minutes) as stop:
        for step, (inputs, targets) in zip(range(start_step, config.num_steps), batches, strict=False):
            started = time.perf_counter()
            result = train_step(tf.constant(step), inputs, targets)
            loss, norm, finite = float(result.loss), float(result.gradient_norm), bool(result.finite)
            log.step_took(time.perf_counter() - started, loss)
            done = step + 1
            metrics = {}
            bad_steps.count(not finite)
            if not finite:
                bad_steps.check(done, loss=loss, norm=norm)
                log.say(f"step {done:,}: loss {loss}, gradient norm {norm}; skipped")
                metrics |= {"skipped_steps": bad_steps.in_all}
            elif done % config.log_every == 0 or done in (1, config.num_steps):
                metrics |= {"loss": loss, "gradient_norm": norm, "learning_rate": float(result.learning_rate)}
            if done % config.eval_every == 0 and done < config.num_steps:
                metrics |= validate()
            if config.sample_every and done % config.sample_every == 0 and done < config.num_steps:
                metrics |= sample()
            if metrics:
                log.write(done, metrics)
            stop_code = agree(stop.code)
            save_is_due |= done % config.checkpoint_every == 0
            # Amid bad steps it waits: the run may have to go back to before them.
            if (save_is_due and finite) or done == config.num_steps or stop_code:
                measured = {key: metrics[key] for key in ("validation_loss",) if key in metrics}
                save(done, {**measured, "bad_steps": bad_steps.facts})
                save_is_due = False
            if stop_code:
                break
        return done, agree(stop.code) if done > start_step else 0
