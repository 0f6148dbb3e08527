"""Resolution of a config: values that depend on the hardware, the parent or the data."""

import itertools
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import (
    PLACES,
    Config,
    conflicting_keys,
    deciding_keys,
    describe_difference,
    differing_keys,
    parse_config,
    replace_places,
    to_dict,
    to_flat,
)
from data.config import TOKENIZERS
from data.tokenizer import read_tokenizer
from models.config import AxialViTConfig
from runs.load import Task, load_run_config, load_task
from runs.parent import check_parent, fill_from_parent, fill_missing, fill_original_length
from system.errors import ConfigError
from system.text import format_command, print_line, print_note
from training.checkpoints import complete_checkpoints
from training.hardware import describe_device, resolve_compile, resolve_precision
from training.replicas import Replicas
from training.run_log import RunDirectory

# Keys that are null until the parent, or the images, have been read. Those of texts are filled in below.
OPEN_KEYS = ("init_from_step", "init_from_data")
OPEN_IMAGE_KEYS = ("image_size", "channels", "num_classes", "patch_size")


@dataclass(frozen=True)
class Run:
    """Run with a resolved config.

    Attributes:
        config: without `auto`, and without null where the parent or the data determine the value.
        task: data of the run.
        directory: directory of the run.
        replicas: devices on which it is trained.
    """

    config: Config
    task: Task
    directory: RunDirectory
    replicas: Replicas

    @property
    def units_per_step(self) -> int:
        """Tokens, or images, in a batch."""
        return self.config.batch_size * (self.config.context_length or 1)


def resolve(config: Config, directory: RunDirectory, replicas: Replicas) -> Run:
    """Resolves the open values of a config; the chief of several workers resolves them for all.

    Raises:
        ConfigError, DataError, RunError: if the directory, the parent, the data or another worker do not fit.
    """
    replicas.check_same(to_flat(config))
    is_recorded = replicas.from_chief(directory.config.exists)
    config = replicas.from_chief(
        lambda: resolve_config(config, directory.config), encode=to_dict, decode=parse_config
    )
    task = load_same_task(config, replicas, directory.path if is_recorded else None)
    check_tokenizer(task, directory)
    if config.init_from is not None:
        replicas.from_chief(lambda: check_new_run(task.config, directory))
    return Run(task.config, task, directory, replicas)


def load_same_task(config: Config, replicas: Replicas, run_directory: Path | None) -> Task:
    """Loads the data on the chief, which may write a cache, and then on the other workers.

    `run_directory` is that of a recorded run.
    """
    options = {"recorded": run_directory is not None, "run_directory": run_directory}
    task = replicas.from_chief(lambda: load_task(config, **options), encode=lambda _: None)
    if task is None:
        task = load_task(config, report=lambda line: None, **options)
    replicas.check_same({"data_fingerprint": task.facts["data_fingerprint"]})
    return task


def check_tokenizer(task: Task, directory: RunDirectory) -> None:
    """Raises ConfigError if the config names a file with another tokenizer than that of an existing run."""
    path = None if task.tokenizer is None else task.config.data.tokenizer
    if path in (None, *TOKENIZERS) or not os.path.exists(path):
        return  # the run has a copy
    if read_tokenizer(path).sha256 != task.tokenizer.sha256:
        raise ConfigError(
            f"data.tokenizer={path} is another tokenizer than {directory.tokenizer}. "
            "Use name= for another run."
        )


def resolve_config(config: Config, recorded_path: Path) -> Config:
    """Resolves `auto` values, compares the config with the recorded one, and fills in the parent's values."""
    precision, precision_reason = resolve_precision(config.precision)
    compile_mode, compile_reason = resolve_compile(config.compile)
    config = replace(config, precision=precision, compile=compile_mode)
    config = replace_places(config, os.path.abspath)  # the run resumes from any working directory
    if recorded_path.exists():
        recorded = load_run_config(recorded_path.parent)
        config = fill_from_record(config, recorded)
        check_recorded(recorded_path.parent, deciding_keys(recorded), config)
        for difference in differing_keys(recorded, config):
            if difference[0] in PLACES:
                print_note(f"{recorded_path.parent}: {describe_difference(difference)}")
    elif config.init_from is not None:
        config = fill_from_parent(config)
    device = config.distribute.strategy if config.distribute.strategy != "none" else describe_device()
    choices = f"precision {precision} ({precision_reason}), compile {compile_mode} ({compile_reason})"
    print_line(f"device: {device}, {choices}")
    return config


def check_recorded(place: Path, recorded: dict, config: Config) -> None:
    """Raises ConfigError with the keys whose recorded values differ, and the command of another run."""
    if not (conflicts := conflicting_keys(recorded, config)):
        return
    changes = "; ".join(map(describe_difference, conflicts))
    names = (f"{place.name}_{number}" for number in itertools.count(2))
    new = {"name": next(name for name in names if not place.with_name(name).exists())}
    purpose = "For another run"
    if [key for key, *_ in conflicts] == ["num_steps"]:
        new["init_from"], purpose = place, "To continue from its weights"
    words = [word for word in sys.argv[1:] if word.lstrip("+").partition("=")[0] not in new]
    command = format_command("train.py", *words, *(f"{key}={value}" for key, value in new.items()))
    raise ConfigError(f"{place} is a run of another config: {changes}. {purpose}: {command}")


def fill_from_record(config: Config, recorded: Config) -> Config:
    """Fills in the open values that an earlier start of this run recorded."""
    if type(config.model) is not type(recorded.model):
        return config
    if config.init_from == recorded.init_from:
        config = fill_missing(config, recorded, OPEN_KEYS)
    elif config.init_from is not None:  # a moved parent; of another one, the step or data conflict
        config = fill_from_parent(fill_missing(config, recorded, ("init_from_step",)))
    if isinstance(config.model, AxialViTConfig):
        config = replace(config, model=fill_missing(config.model, recorded.model, OPEN_IMAGE_KEYS))
    else:
        config = replace(config, model=fill_missing(config.model, recorded.model, ("vocab_size",)))
        config = replace(config, data=fill_missing(config.data, recorded.data, ("tokenizer",)))
    return fill_original_length(config, recorded.model.rope.scaling.original_max_position_embeddings)


def check_new_run(config: Config, directory: RunDirectory) -> None:
    """Checks that the parent's weights fit, unless the run has weights of its own."""
    if not complete_checkpoints(directory.checkpoints):
        check_parent(config)
