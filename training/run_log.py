"""What a run tells: a line on the terminal, metrics.jsonl, TensorBoard, samples.txt."""

import json
import sys
from contextlib import nullcontext

from tqdm import tqdm

from system.files import sync, write_text
from system.terminal import print_line
from system.text import format_duration
from training.events import Events
from training.run_directory import RunDirectory


class RunLog:
    """The log of one run, continued at a step; a context, which closes it.

    metrics.jsonl holds one row a step; rows past `start_step`, which a resumed run will write again, are
    dropped. On a terminal, progress is a live line; elsewhere, plain lines.

    Args:
        directory: of the run.
        start_step: steps already done.
        num_steps: of the whole run.
        unit: what is counted, `tokens` or `images`.
        units_per_step: of it, in a batch.
        elapsed_seconds: that the steps already done have taken.
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
        self.rows = [row for row in read_rows(directory) if row["step"] <= start_step]
        self._write_rows()
        self._write_samples()
        self.elapsed_seconds = elapsed_seconds
        self.rate = self.rows[-1].get(self.rate_name, 0) if self.rows else 0
        self._steps_timed, self._seconds_timed, self._is_compiled = 0, 0.0, False
        self._events = Events(directory, start_step=start_step)
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=num_steps, initial=start_step, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind=None, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        self._events.close()
        if kind is None:
            self.sync()  # what is written next may say that the run is complete

    def step_took(self, seconds: float, loss: float) -> None:
        """Counts one step; evaluation, samples and checkpoints are not part of its time."""
        self.elapsed_seconds += seconds
        if self._is_compiled:
            self._steps_timed += 1
            self._seconds_timed += seconds
            self.rate = round(self._steps_timed * self.units_per_step / self._seconds_timed)
        self._is_compiled = True  # in the first step of this process
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {self.rate:,} {self.unit}/s", refresh=False)
            self._bar.update()

    def write(self, step: int, metrics: dict) -> None:
        """Logs numbers of one step, and at times a `sample` of text; they join the step's row if it has one.

        Raises:
            RunError: if the directory is not that of this run any more.
            OSError: if a row cannot be written.
        """
        self.directory.check_owned()
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
        self._events.write(step, {**metrics, self.rate_name: self.rate})
        if "sample" in metrics:
            self._write_samples()
        self._tell(row)

    def sync(self) -> None:
        """Waits until the rows and the events are on disk."""
        if self.directory.metrics.exists():
            sync(self.directory.metrics)
        self._events.sync()

    def say(self, text: str) -> None:
        """Prints a line, without breaking the live one."""
        with nullcontext() if self._bar is None else self._bar.external_write_mode():
            print_line(text)

    def _tell(self, row: dict) -> None:
        is_notable = "validation_loss" in row or "sample" in row
        if self._bar is None or is_notable:
            self.say(self._line(row))
        if "sample" in row:
            self.say(f"--- sample at step {row['step']} ---\n{row['sample']}\n---")

    def _line(self, row: dict) -> str:
        parts = [f"step {row['step']:,}/{self.num_steps:,}"]
        if "loss" in row:
            parts.append(f"loss {row['loss']:.4f}")
        if "validation_loss" in row:
            parts.append(f"validation {row['validation_loss']:.4f}")
        if "accuracy" in row:
            parts.append(f"accuracy {row['accuracy']:.2%}")
        if self.rate:
            left = (self.num_steps - row["step"]) * self.units_per_step
            parts.append(f"{self.rate:,} {self.unit}/s")
            parts.append(f"ETA {format_duration(left / self.rate)}")
        return "  ".join(parts)

    def _write_rows(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_text(self.directory.metrics, text)

    def _write_samples(self) -> None:
        samples = [f"--- step {row['step']} ---\n{row['sample']}\n" for row in self.rows if "sample" in row]
        if samples or self.directory.samples.exists():
            write_text(self.directory.samples, "\n".join(samples))


def read_rows(directory: RunDirectory) -> list[dict]:
    """Rows of metrics.jsonl; a line that is none, such as one that a crash cut short, is left out."""
    try:
        lines = directory.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [row for row in map(parsed_row, lines) if row is not None]


def parsed_row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
