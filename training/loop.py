"""Training loop of all tasks, and stopping it between two steps at a signal or after a time limit."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from system.command import stop_signals
from system.errors import DataError, DivergedError, reason
from training.config import TrainingConfig
from training.run_log import RunLog
from training.step import StepResult

# Signals within this time are one request: `timeout` sends one to the process and one to its group.
REQUEST_SECONDS = 0.1
NO_BAD_STEPS = {"in_a_row": 0, "in_all": 0}
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later
STOP_REASONS = {OUT_OF_TIME: "max_minutes", 129: "SIGHUP", 130: "Ctrl-C", 143: "SIGTERM"}  # by exit code


class StopRequest:
    """Context in which the first Ctrl-C or SIGTERM, or `max_minutes`, sets `code`; a second ends the process.

    A thread handles the signals even during a step or its compilation, which delay Python's handlers.
    SIGHUP sets `code` too but never ends the process, since a closing terminal may send several.
    """

    def __init__(self, max_minutes: float | None = None):
        self._code = 0
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes

    @property
    def code(self) -> int:
        """Exit code: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 75 out of time, otherwise 0."""
        return self._code or (OUT_OF_TIME if time.monotonic() >= self._deadline else 0)

    def __enter__(self) -> "StopRequest":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer)
        self._previous_handlers = {number: signal.signal(number, self._set_code) for number in stop_signals()}
        threading.Thread(target=self._listen, args=(self._reader,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)  # ends the thread

    def _set_code(self, number, frame) -> None:
        self._code = self._code or 128 + number

    @staticmethod
    def _listen(reader: int) -> None:
        """Handles each signal number that the wake-up file descriptor receives."""
        first_time = None
        while number := os.read(reader, 1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if first_time is None:
                first_time = time.monotonic()
                with contextlib.suppress(OSError):  # a closed pipe
                    os.write(2, b"\nstopping after this step; once more to stop at once\n")
            elif time.monotonic() > first_time + REQUEST_SECONDS:
                os._exit(128 + number[0])
        os.close(reader)


def train(
    train_step: Callable[..., StepResult],
    batches: Iterable,
    *,
    config: TrainingConfig,
    start_step: int,
    bad_steps: dict[str, int],
    log: RunLog,
    validate: Callable[[], dict[str, float]],
    sample: Callable[[], dict],
    save: Callable[[int, dict], None],
    agree: Callable[[int], int] = int,
) -> tuple[int, int]:
    """Runs the steps after `start_step`; Ctrl-C, SIGTERM, SIGHUP or `max_minutes` stop it after a saved step.

    Args:
        batches: `(inputs, targets)` of step `start_step` and on.
        bad_steps: counts in the manifest, so that a resumed run diverges at the same step.
        validate: returns metrics on a part of the held-out data.
        sample: samples the model; returns values to log.
        save: writes the checkpoint of a step, with facts for its manifest.
        agree: returns the largest exit code of all workers.

    Returns:
        Number of steps done in the whole run, and the exit code of a stopped run, or 0.
    """
    done, save_is_due = start_step, False
    with StopRequest(config.max_minutes) as stop:
        for step, (inputs, targets) in zip(range(start_step, config.num_steps), read(batches), strict=False):
            started = time.perf_counter()
            result = train_step(tf.constant(step), inputs, targets)
            loss, norm, finite = float(result.loss), float(result.gradient_norm), bool(result.finite)
            log.step_took(time.perf_counter() - started, loss)
            done = step + 1
            bad_steps = count_bad_steps(bad_steps, done, result, max_in_a_row=config.max_bad_steps)
            metrics = {}
            if not finite:
                log.say(f"step {done:,}: loss {loss}, gradient norm {norm}; skipped")
                metrics |= {"skipped_steps": bad_steps["in_all"]}
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
                save(done, {"validation_loss": metrics.get("validation_loss"), "bad_steps": bad_steps})
                save_is_due = False
            if stop_code:
                break
        return done, agree(stop.code) if done > start_step else 0


def read(batches: Iterable) -> Iterator:
    """The batches; a DataError of the thread that reads them, which TensorFlow wraps, is raised as such."""
    try:
        yield from batches
    except tf.errors.InvalidArgumentError as error:
        *_, message = reason(error).partition("DataError: ")
        raise DataError(message) if message else error from None


def count_bad_steps(counts: dict[str, int], done: int, result: StepResult, *, max_in_a_row: int) -> dict:
    """Numbers of steps without finite values; DivergedError after `max_in_a_row` of them in a row."""
    if result.finite:
        return counts | {"in_a_row": 0}
    in_a_row = counts["in_a_row"] + 1
    if in_a_row >= max_in_a_row:
        raise DivergedError(
            f"step {done:,}: loss {float(result.loss)}, gradient norm {float(result.gradient_norm)}; "
            f"{in_a_row} steps in a row without finite values",
            good_step=done - in_a_row,
        )
    return {"in_a_row": in_a_row, "in_all": counts["in_all"] + 1}


def is_due(done: int, every: int | None, config: TrainingConfig) -> bool:
    """Whether an action with interval `every` is due after `done` steps; never after the last step."""
    return bool(every) and done % every == 0 and done < config.num_steps
