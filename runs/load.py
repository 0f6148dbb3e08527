"""The task and the model of a config, and a trained model from its run directory."""

from collections.abc import Callable
from pathlib import Path

import keras

from configs.schema import Config, load_config
from data.config import IMAGE_CONFIGS, PasskeyConfig
from data.tokens import SEPARATOR
from models.config import AxialViTConfig
from models.transformer import TransformerLM
from models.vit import AxialViT
from runs.image_task import ImageTask, load_image_task
from runs.passkey_task import PasskeyTask, load_passkey_task
from runs.text_task import TextTask, load_text_task
from system.errors import RunError
from system.terminal import print_error
from training.checkpoints import restore_weights
from training.manifest import MANIFEST

Task = TextTask | PasskeyTask | ImageTask


def load_task(
    config: Config,
    *,
    report: Callable[[str], None] = print,
    recorded: bool = False,
    facts: dict | None = None,
) -> Task:
    """The data of a config and what to do with it; its `config` holds what the model takes from the data.

    Args:
        report: receives one-line messages.
        recorded: whether the config is that of a run that has begun, whose data are not to change.
        facts: of the checkpoint of a trained model, which is to see images as in its training.

    Raises:
        DataError: if there are no such data, or they do not fit the model.
    """
    if isinstance(config.data, IMAGE_CONFIGS):
        return load_image_task(config, report=report, recorded=recorded, facts=facts)
    if isinstance(config.data, PasskeyConfig):
        return load_passkey_task(config)
    return load_text_task(config, report=report)


def make_model(config: Config) -> keras.Model:
    """The model of a config, with its initial weights."""
    dtype = config.precision
    if isinstance(config.model, AxialViTConfig):
        return AxialViT(config.model, dtype=dtype)
    separator = SEPARATOR if config.data.reset_positions else None
    return TransformerLM(config.model, dtype=dtype, document_separator=separator)


def load_model(run_directory: Path, *, of: type | None = None) -> tuple[keras.Model, Config, dict]:
    """The model with the weights of its latest checkpoint, the run's config, and the checkpoint's manifest.

    Args:
        run_directory: of the run.
        of: class of the model's config, where a script is for one kind of model.

    Raises:
        RunError: if it is not a run directory, has no checkpoint that fits, or another kind of model.
        ConfigError: if its config cannot be read.
    """
    if not (run_directory / "config.yaml").is_file():
        raise RunError(
            f"{run_directory} is not a run directory: it has no config.yaml. Train one: python train.py"
        )
    config = load_config(run_directory / "config.yaml")
    if of is not None and not isinstance(config.model, of):
        raise RunError(
            f"{run_directory} is a run of model.architecture {config.model.architecture}, "
            f"this needs {of.architecture}"
        )
    model = make_model(config)
    manifest = restore_weights(run_directory, model, report=print_error)
    if isinstance(config.model, AxialViTConfig):
        check_facts_of_images(run_directory, config.model, manifest)
    return model, config, manifest


def check_facts_of_images(run_directory: Path, model: AxialViTConfig, manifest: dict) -> None:
    """Raises RunError if a checkpoint does not record the classes and the normalisation of its images."""
    wanted = {"classes": model.num_classes, "mean": model.channels, "deviation": model.channels}
    for key, count in wanted.items():
        if (found := len(manifest.get(key, []))) != count:
            raise RunError(
                f"{run_directory}: the checkpoint of step {manifest['step']:,} is damaged: its {MANIFEST} "
                f"has {found} values of {key}, expected {count}"
            )


def tell_of_other_data(path: Path, config: Config, manifest: dict, *, fingerprint: str) -> None:
    """A note, if the data are not those that a run was trained on."""
    if fingerprint != manifest["data_fingerprint"]:
        print_error(f"note: {path} was trained on other data than this machine's {config.data.source}.")
