"""Directory of a run, with its lock, and log of a run: terminal, metrics.jsonl, TensorBoard, samples.txt."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf
from filelock import FileLock, Timeout
from tqdm import tqdm

from system.errors import RunError, reason
from system.files import read_json_lines, sync, write_text
from system.text import can_redraw_lines, format_duration, format_percent, print_line, print_note

PROGRESS_SECONDS = 10
FORMATS = {"loss": "loss {:.4f}", "validation_loss": "validation {:.4f}", "bits_per_byte": "{:.4f} bits/byte"}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class RunDirectory:
    """Directory `outputs/<name>`, locked inside its context; the lock ends with the process.

    A run that fails before its first checkpoint removes the directory if nothing is in it. An `OSError` for a
    file of the directory becomes a RunError.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.tokenizer = self.path / "tokenizer.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.samples = self.path / "samples.txt"
        self.predictions = self.path / "predictions.png"
        self.confusion = self.path / "confusion.png"
        self.loss_plot = self.path / "loss.png"
        self.summary = self.path / "summary.json"
        self.unwritable: set[Path] = set()  # optional files that could not be written
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __enter__(self) -> "RunDirectory":
        try:
            directories = (self.checkpoints, self.tensorboard, self.tensorboard / "validation")
            if linked := [path for path in directories if path.is_symlink()]:
                raise RunError(f"{linked[0]} is a symbolic link: for another disk, link {self.path} itself.")
            missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            for path in missing:
                sync(path.parent)
            self._lock.acquire()
            self._lock_status = os.stat(self._lock.lock_file)
        except Timeout as error:
            raise RunError(f"{self.path} is in use by another process; wait, or set name=NEW.") from error
        except OSError as error:
            raise self._write_error(error) from error
        return self

    def __exit__(self, kind, error: BaseException | None, traceback) -> None:
        if self._is_owned() and not (self.config.exists() or self.checkpoints.exists()):
            Path(self._lock.lock_file).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                self.path.rmdir()
        self._lock.release()
        # Errors of a write, unlike those of an open, have no file name.
        if isinstance(error, OSError) and (
            error.errno in DISK_ERRORS or self.path in Path(str(error.filename)).parents
        ):
            raise self._write_error(error) from error

    def check_owned(self) -> None:
        """Raises RunError if the directory at this path is not the locked one."""
        if not self._is_owned():
            raise RunError(
                f"{self.path} was removed or replaced while this run was writing to it. The run has stopped; "
                "the same command starts a new one."
            )

    @contextlib.contextmanager
    def optional(self, path: Path) -> Iterator[None]:
        """Context for writing an optional file: the first error is printed, and none is raised."""
        try:
            yield
        except Exception as error:
            if path not in self.unwritable:
                self.unwritable.add(path)
                print_note(f"cannot write {path} ({reason(error)}); the run continues without it.")

    def _is_owned(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._lock.lock_file), self._lock_status)
        except OSError:
            return False

    def _write_error(self, error: OSError) -> RunError:
        return RunError(f"cannot write to {self.path} ({reason(error)}). Use another output_dir= or name=.")


class RunLog:
    """Log of a run, continued after `start_step`, which `elapsed_seconds` of training took.

    metrics.jsonl holds one row a step. Rows after `start_step` are dropped, since a resumed run writes them
    again. Progress is a live line on a terminal, and plain lines elsewhere. The unit is `tokens` or `images`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        start_step: int,
        num_steps: int,
        unit: str,
        units_per_step: int,
        elapsed_seconds: float = 0.0,
    ):
        self.directory = directory
        self.num_steps = num_steps
        self.unit, self.units_per_step = unit, units_per_step
        self.rate_name = f"{unit}_per_second"
        self.rows = [row for row in read_json_lines(directory.metrics) if row["step"] <= start_step]
        self._write_rows()
        self._write_samples()
        self.elapsed_seconds = elapsed_seconds
        self.rate = self.rows[-1].get(self.rate_name, 0) if self.rows else 0
        self._steps_timed, self._seconds_timed, self._is_compiled = 0, 0.0, False
        # The loss has the same name in both, so that TensorBoard draws both curves in one chart.
        self._events = self._validation_events = tf.summary.create_noop_writer()
        with directory.optional(directory.tensorboard):
            self._events = make_event_writer(directory.tensorboard, start_step)
            self._validation_events = make_event_writer(directory.tensorboard / "validation", start_step)
        self._is_live = can_redraw_lines()
        self._bar_options = {"dynamic_ncols": True, "disable": not self._is_live}
        self._bar = tqdm(total=num_steps, initial=start_step, unit="step", **self._bar_options)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind=None, *_) -> None:
        self._bar.close()
        with self.directory.optional(self.directory.tensorboard):
            self._events.close()
            self._validation_events.close()
        if kind is None:
            self.sync()

    def step_took(self, seconds: float, loss: float) -> None:
        """Counts one step; its time excludes evaluation, samples and checkpoints."""
        self.elapsed_seconds += seconds
        if self._is_compiled:
            self._steps_timed += 1
            self._seconds_timed += seconds
            self.rate = round(self._steps_timed * self.units_per_step / self._seconds_timed)
        self._is_compiled = True  # by the first step of this process
        self._bar.set_postfix_str(f"loss {loss:.3f}, {self.rate:,} {self.unit}/s", refresh=False)
        self._bar.update()

    def progress(self, batches: Sequence) -> Iterator:
        """Yields the batches, and reports how many are done and the time for the others."""
        self._bar.close()
        started = reported = time.monotonic()
        for number, batch in enumerate(tqdm(batches, unit="batch", **self._bar_options), 1):
            yield batch
            passed = time.monotonic()
            if not self._is_live and passed - reported > PROGRESS_SECONDS:
                reported, left = passed, (passed - started) / number * (len(batches) - number)
                self.say(f"batch {number:,}/{len(batches):,}  ETA {format_duration(left)}")

    def write(self, step: int, metrics: dict) -> None:
        """Logs metrics of a step, a `sample` of text and paths of pictures; adds to the row of the step."""
        self.directory.check_owned()
        self.write_events(step, {**metrics, self.rate_name: self.rate})
        metrics = {name: value for name, value in metrics.items() if not isinstance(value, Path)}
        if not metrics:
            return
        row = {
            "step": step,
            self.unit: step * self.units_per_step,
            **metrics,
            self.rate_name: self.rate,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
        }
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= row
            self._write_rows()
        else:
            self.rows.append(row)
            with open(self.directory.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if not self._is_live or "validation_loss" in row or "sample" in row:
            self.say(self._format(row))
        if "sample" in row:
            self._write_samples()
            self.say(f"--- sample at step {step} ---\n{row['sample']}\n---")

    def sync(self) -> None:
        """Waits until the rows and events are on disk."""
        sync(self.directory.metrics)
        with self.directory.optional(self.directory.tensorboard):
            for path in self.directory.tensorboard.rglob("events.*"):
                sync(path)

    def say(self, text: str) -> None:
        """Prints a line above the live one."""
        with self._bar.external_write_mode():
            print_line(text)

    def _format(self, row: dict) -> str:
        parts = [f"step {row['step']:,}/{self.num_steps:,}"]
        parts += [text.format(row[name]) for name, text in FORMATS.items() if name in row]
        if "accuracy" in row:
            parts.append(f"accuracy {format_percent(row['accuracy'])}")
        if self.rate:
            left = (self.num_steps - row["step"]) * self.units_per_step
            parts.append(f"{self.rate:,} {self.unit}/s")
            if left:
                parts.append(f"ETA {format_duration(left / self.rate)}")
        return "  ".join(parts)

    def _write_rows(self) -> None:
        write_text(self.directory.metrics, "".join(json.dumps(row) + "\n" for row in self.rows))

    def _write_samples(self) -> None:
        samples = [f"--- step {row['step']} ---\n{row['sample']}\n" for row in self.rows if "sample" in row]
        if samples or self.directory.samples.exists():
            write_text(self.directory.samples, "\n".join(samples))

    def write_events(self, step: int, values: dict) -> None:
        """Adds numbers, a `sample` of text, and PNG files that could be written to TensorBoard."""
        if self.directory.tensorboard in self.directory.unwritable:
            return
        with self.directory.optional(self.directory.tensorboard), self._events.as_default(step):
            for name, value in values.items():
                if isinstance(value, Path):
                    if value.suffix == ".png" and value not in self.directory.unwritable:
                        tf.summary.image(value.stem, tf.io.decode_png(value.read_bytes())[tf.newaxis])
                elif name == "sample":
                    tf.summary.text(name, f"```\n{value}\n```")
                elif name == "validation_loss":
                    with self._validation_events.as_default(step):
                        tf.summary.scalar("loss", value)
                else:
                    tf.summary.scalar(name, value)
            self._events.flush()
            self._validation_events.flush()


def make_event_writer(directory: Path, start_step: int) -> tf.summary.SummaryWriter:
    """TensorBoard writer, after a SessionLog.START event, which hides earlier events after `start_step`.

    TensorFlow 2 does not write one. Its file has a name that sorts before that of the writer's file.
    """
    directory.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(directory / f"events.out.tfevents.{int(time.time())}")) as file:
        file.write(tf.compat.v1.Event(file_version="brain.Event:2").SerializeToString())
        session = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        file.write(tf.compat.v1.Event(step=start_step + 1, session_log=session).SerializeToString())
    return tf.summary.create_file_writer(str(directory))
