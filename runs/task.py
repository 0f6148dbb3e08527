"""The interface between a kind of data and the training loop."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import keras

from configs.schema import Config
from training.evaluation import Measure
from training.run_log import RunDirectory


class Outcome(NamedTuple):
    """Results of a finished run.

    summary: values for summary.json.
    files: files that show what the model does.
    next_command: command to try next.
    """

    summary: dict
    files: list[Path]
    next_command: str


class Task(Protocol):
    """Data of a run, and everything that depends on the kind of data: text, passkeys or images.

    Attributes:
        config: the run's config, with the values that come from the data filled in.
        unit: unit of the training data, `tokens` or `images`.
        description: one line about the data.
        facts: values for the checkpoint: `data_fingerprint`, and those that inference needs.
        samples_at_end: whether the sampler is called for the last row too; images draw theirs in `finish`.
        measure: sums over the targets of a batch, from `training.evaluation`.
    """

    config: Config
    unit: str
    description: str
    facts: dict
    samples_at_end: bool
    measure: Measure

    def training_batches(self, start_step: int, rows: slice) -> Iterable:
        """Batches of the steps from `start_step` on, restricted to `rows`."""

    def evaluation_batches(self, max_batches: int | None, rows: slice) -> Iterable:
        """All held-out data, or `max_batches` batches spread evenly over it."""

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        """Function that samples the model and returns values to log by name."""

    def results(self, means: dict[str, float]) -> dict:
        """Row of a table of runs, from the means over all held-out data."""

    def verdict(self, row: dict) -> str:
        """Quality of the model in one phrase, from the last row of metrics.jsonl."""

    def finish(self, directory: RunDirectory, model: keras.Model, row: dict) -> Outcome:
        """Writes the pictures of a finished run; `row` is the last row of metrics.jsonl."""
