"""Loads the data and model of a config, and trained models from run directories."""

from collections.abc import Callable
from pathlib import Path

import keras

from configs.compose import load_config
from configs.schema import Config
from data.config import IMAGE_CONFIGS, PasskeyConfig
from data.tokens import SEPARATOR
from models.config import AxialViTConfig
from models.transformer import TransformerLM
from models.vit import AxialViT
from runs.image_task import load_image_task
from runs.task import Task
from runs.text_task import load_passkey_task, load_text_task
from system.errors import RunError
from system.text import print_line, print_note
from training.checkpoints import restore_weights
from training.hardware import initialize_devices


def load_task(
    config: Config,
    *,
    report: Callable[[str], None] = print_line,
    recorded: bool = False,
    facts: dict | None = None,
) -> Task:
    """Loads the data of a config.

    Args:
        config: config of the run.
        report: receives one-line messages.
        recorded: whether the config is that of an existing run, whose data must not change.
        facts: facts in the checkpoint of a trained model; images are normalized as in its training.

    Raises:
        DataError: if the data cannot be read or do not fit the model.
    """
    if isinstance(config.data, IMAGE_CONFIGS):
        return load_image_task(config, report=report, recorded=recorded, facts=facts)
    if isinstance(config.data, PasskeyConfig):
        return load_passkey_task(config)
    return load_text_task(config, report=report)


def make_model(config: Config) -> keras.Model:
    """Model of a config, with initial weights."""
    if isinstance(config.model, AxialViTConfig):
        return AxialViT(config.model, dtype=config.precision)
    separator = SEPARATOR if config.data.reset_positions else None
    return TransformerLM(config.model, dtype=config.precision, document_separator=separator)


def load_model(run_directory: Path, *, of: type | None = None) -> tuple[keras.Model, Config, dict]:
    """Loads the latest checkpoint of a run.

    Args:
        run_directory: directory of the run.
        of: required class of the model's config, for a command that supports one kind of model.

    Returns:
        The model, the run's config, and the checkpoint's manifest.

    Raises:
        RunError: if it is not a run directory, has no checkpoint that fits, or has another kind of model.
        ConfigError: if its config cannot be read.
    """
    initialize_devices()
    config = load_run_config(run_directory)
    if of is not None and not isinstance(config.model, of):
        raise RunError(
            f"{run_directory} is a run of model.architecture {config.model.architecture}, "
            f"this command needs {of.architecture}"
        )
    model = make_model(config)
    return model, config, restore_weights(run_directory, model)


def load_run_config(run_directory: Path) -> Config:
    """Config of a run.

    Raises:
        RunError: if it is not a run directory.
        ConfigError: if its config cannot be read.
    """
    path = run_directory / "config.yaml"
    if not path.is_file():
        raise RunError(
            f"{run_directory} is not a run directory: it has no config.yaml. Train one: python train.py"
        )
    return load_config(path)


def note_other_data(path: Path, config: Config, manifest: dict, *, fingerprint: str) -> None:
    """Prints a note if the data differ from those that a run was trained on."""
    if fingerprint != manifest["data_fingerprint"]:
        print_note(f"{path} was trained on data that differ from {config.data.source} on this machine.")
