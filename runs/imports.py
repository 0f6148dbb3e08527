"""A run directory from a folder of Hugging Face transformers."""

from dataclasses import replace
from pathlib import Path

import keras

from configs.compose import compose, override_key
from configs.schema import parse_config
from models.huggingface import CONFIG, TOKENIZER, load_pretrained
from runs.checkpointing import constant_facts, record
from runs.load import load_task
from runs.resolve import Run, resolve_config
from system.errors import ConfigError, RunError
from system.text import format_command, print_line
from training.checkpoints import Checkpoints, sha256_of
from training.hardware import initialize_devices
from training.replicas import ONE_DEVICE
from training.run_log import RunDirectory

# Recorded as that of the run, which that of a child does not exceed by default (configs/compose.py).
OPTIMIZER = ("optimizer.learning_rate=1e-4", "optimizer.adamw_learning_rate_ratio=1")
FIXED = ("model", "context_length", "init_from", "name")


def import_folder(folder: Path, name: str, overrides: list[str]) -> str:
    """Writes `output_dir/name` with the weights of a folder at step 0, and returns a line about it.

    `overrides` are keys of `train.py`, such as those of the data, which are measured and used by children of
    the run. The default tokenizer is that of the folder.
    """
    for override in overrides:
        if override_key(override).split(".")[0] in FIXED:
            raise ConfigError(f"{override!r} cannot be set: it is determined by {folder} and --name")
    config = parse_config(compose([*OPTIMIZER, *overrides]))
    config = replace(config, name=name)
    directory = RunDirectory(Path(config.output_dir) / name)
    if directory.config.exists():
        raise RunError(f"{directory.path} is a run already; choose another --name")
    if config.data.tokenizer is None:
        config = replace(config, data=replace(config.data, tokenizer=str(folder)))
    initialize_devices()
    model = load_pretrained(folder)
    config = replace(config, model=model.config, context_length=model.config.context_length)
    config = resolve_config(config, directory.config)
    task = load_task(config)
    run = Run(config, task, directory, ONE_DEVICE)
    files = [folder / CONFIG, folder / TOKENIZER, *sorted(folder.glob("*.safetensors*"))]
    source = {
        "imported_from": str(folder.resolve()),
        "imported_files": {path.name: sha256_of(path) for path in files if path.exists()},
    }
    with directory:
        checkpoints = Checkpoints(directory.checkpoints, model, keras.optimizers.SGD(), keep=1)
        checkpoints.save(0, constant_facts(run) | source)
        record(run)
    print_line(task.description)
    command = format_command("-m", task.next_script, directory.path)
    return (
        f"wrote {directory.path}: {model.count_params():,} parameters, a vocabulary of "
        f"{model.config.vocab_size:,} and a context of {config.context_length:,} tokens\nnext: {command}"
    )
