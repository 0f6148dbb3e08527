"""A trained model from its run directory, for the scripts that use one."""

import sys
from pathlib import Path

from configs.schema import Config, load_config
from models.transformer import TransformerLM
from training.checkpoints import restore_weights
from training.errors import RunError


def load_model(run_directory: Path) -> tuple[TransformerLM, Config, dict]:
    """The model with the weights of its latest checkpoint, the run's config, and the checkpoint's manifest.

    Raises:
        RunError: if it is not a run directory, or has no checkpoint that fits.
        ConfigError: if its config cannot be read.
    """
    if not (run_directory / "config.yaml").is_file():
        raise RunError(
            f"{run_directory} is not a run directory: it has no config.yaml. Train one: python train.py"
        )
    config = load_config(run_directory / "config.yaml")
    model = TransformerLM(config.model, dtype=config.training.precision)
    manifest = restore_weights(run_directory, model, report=print_error)
    return model, config, manifest


def print_error(line: str) -> None:
    """A note; standard output is for results."""
    print(line, file=sys.stderr)
