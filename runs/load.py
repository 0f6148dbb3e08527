"""The task of a run, and loading of tasks, models and trained runs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import keras

from configs.compose import REWRITE, load_config, no_run
from configs.schema import Config, conflicting_keys, describe_difference
from data.config import ImagesConfig, PasskeyConfig
from data.corpus import TextCorpus
from data.sources import Report
from data.tokenizer import BYTES, FILE_NAME, Tokenizer, read_tokenizer
from models.config import AxialViTConfig
from models.transformer import TransformerLM
from models.vit import AxialViT
from runs.image_task import load_image_task
from runs.text_task import load_passkey_task, load_text_task
from system.errors import ConfigError, RunError
from system.files import read_json_lines
from system.text import print_line, print_note
from training.checkpoints import complete_checkpoints, recorded_config, restore_weights, step_of
from training.evaluation import Measure
from training.hardware import initialize_devices
from training.run_log import RunDirectory


class Task(Protocol):
    """Data of a run, and everything that depends on the kind of data: text, passkeys or images."""

    config: Config  # of the run, with the values that come from the data filled in
    unit: str  # of the training data: `tokens` or `images`
    description: str  # one line about the data
    epoch_size: int | None  # number of units in the training data; None if they are generated
    facts: dict  # for the checkpoint: `data_fingerprint`, and what inference needs
    measure: Measure  # sums over the targets of a batch, from `training.evaluation`
    tokenizer: Tokenizer | None  # None for images
    next_script: str  # to try with a finished run

    def training_batches(self, start_step: int, rows: slice) -> Iterable:
        """Batches of the steps from `start_step` on, restricted to `rows`."""

    def evaluation_batches(self, max_batches: int | None, rows: slice) -> Iterable:
        """All held-out data, or `max_batches` batches spread evenly over it."""

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        """Function that samples the model and returns values to log by name."""

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """The means over held-out data, with those in other units."""

    def results(self, means: dict[str, float]) -> dict:
        """Row of a table of runs, from the means over all held-out data."""

    def verdict(self, row: dict) -> str:
        """Quality of the model in one phrase, from the last row of metrics.jsonl."""

    def finish(self, directory: RunDirectory, model: keras.Model) -> tuple[dict, list[Path]]:
        """Writes the pictures of a finished run, and returns values for summary.json and the pictures."""


def load_task(
    config: Config,
    *,
    report: Report = print_line,
    facts: dict | None = None,
    run_directory: Path | None = None,
) -> Task:
    """Loads the data of a config; DataError if they cannot be read or do not fit the model.

    With the `facts` in the checkpoint of a trained model, images are normalized as in its training. With the
    `run_directory` of an existing run, its tokenizer is used, and the data must not have changed.
    """
    if isinstance(config.data, ImagesConfig):
        return load_image_task(config, report=report, facts=facts)
    tokenizer = load_run_tokenizer(run_directory, config) if run_directory else None
    if isinstance(config.data, PasskeyConfig):
        return load_passkey_task(config, tokenizer=tokenizer)
    return load_text_task(config, report=report, tokenizer=tokenizer)


def load_run_tokenizer(run_directory: Path, config: Config) -> Tokenizer:
    """Tokenizer of a run, that of bytes for images; raises DataError if its file cannot be read."""
    is_of_bytes = getattr(config.data, "tokenizer", None) in (None, "bytes")
    return BYTES if is_of_bytes else read_tokenizer(run_directory / FILE_NAME)


def make_model(config: Config, tokenizer: Tokenizer | None = BYTES) -> keras.Model:
    """Model of a config, with initial weights; `tokenizer` is that of its text."""
    if isinstance(config.model, AxialViTConfig):
        return AxialViT(config.model, dtype=config.precision)
    separator = tokenizer.separator if config.data.reset_positions else None
    return TransformerLM(config.model, dtype=config.precision, document_separator=separator)


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run with the weights of a checkpoint."""

    path: Path
    model: keras.Model
    config: Config
    manifest: dict  # of the checkpoint
    corpus: TextCorpus | None = None  # only where the loss by window is measured
    tokenizer: Tokenizer = BYTES  # for images too

    @property
    def trained_length(self) -> int:
        return self.model.config.context_length


def load_run(
    run_directory: Path, *, of: type | None = None, precision: str | None = None, step: int | str = "latest"
) -> TrainedRun:
    """Run with the weights of a checkpoint, whose step is printed.

    `of` is the class of the model's config that a command needs, and `precision` replaces that of the run.
    `step` is a number, `latest`, or `best` for the lowest held-out loss among the checkpoints kept.
    """
    initialize_devices()
    config = load_run_config(run_directory)
    if of is not None and not isinstance(config.model, of):
        kind = "vision transformer" if of is AxialViTConfig else "language model"
        raise RunError(f"{run_directory} is not a run of a {kind}, which this command needs")
    if precision is not None:
        config = replace(config, precision=precision)
    if step == "best":
        step = find_best_step(run_directory)
    tokenizer = load_run_tokenizer(run_directory, config)
    model = make_model(config, tokenizer)
    manifest = restore_weights(run_directory, model, step=None if step == "latest" else step)
    print_note(f"{run_directory}: using the checkpoint of step {manifest['step']:,}")
    return TrainedRun(run_directory, model, config, manifest, tokenizer=tokenizer)


def find_best_step(run_directory: Path) -> int:
    """Step of the kept checkpoint with the lowest held-out loss in metrics.jsonl."""
    rows = read_json_lines(run_directory / "metrics.jsonl")
    losses = {row["step"]: row["validation_loss"] for row in rows if row.get("validation_loss") is not None}
    steps = [step_of(path) for path in complete_checkpoints(run_directory / "checkpoints")]
    best = min(losses.keys() & steps, key=losses.get, default=None)
    if best is None:
        raise RunError(f"{run_directory} has no held-out loss of a kept checkpoint; kept: {steps}")
    return best


def load_run_config(run_directory: Path) -> Config:
    """Config of a run; ConfigError if it differs from that of its checkpoints."""
    path = run_directory / "config.yaml"
    if not path.is_file():
        raise no_run(run_directory)
    config, recorded = load_config(path), recorded_config(run_directory / "checkpoints")
    if conflicts := conflicting_keys(recorded, config):
        changes = "; ".join(map(describe_difference, conflicts))
        raise ConfigError(f"{path} differs from the checkpoints of its run: {changes}. {REWRITE}")
    return config


def note_other_data(run: TrainedRun, fingerprint: str) -> None:
    """Prints a note if the data differ from those that a run was trained on."""
    if fingerprint != run.manifest["data_fingerprint"]:
        source = run.config.data.source
        print_note(f"{run.path} was trained on data that differ from {source} on this machine.")
