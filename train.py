"""Trains a model: `python train.py experiment=lm`; `python train.py --help` shows every key."""

import sys

from configs.compose import compose, missing_parent
from configs.help import help_text
from configs.schema import parse_config
from configs.sweep import sweep
from system.command import quiet_imports, run_command
from system.errors import ConfigError
from system.text import print_line

HELP_FLAGS = {"-h", "--help"}
SWEEP_FLAGS = {"-m", "--multirun"}


def main(arguments: list[str]) -> int | None:
    """Trains, sweeps or prints help; returns the exit code."""
    flags = set(arguments)
    rest = [argument for argument in arguments if argument not in HELP_FLAGS | SWEEP_FLAGS]
    if flags & SWEEP_FLAGS and not flags & HELP_FLAGS:
        return sweep(rest)
    values = compose(rest, report=print_line)
    if values is None:  # Hydra has answered a flag such as --cfg
        return None
    if flags & HELP_FLAGS:
        print(help_text(values))
        return None
    try:
        config = parse_config(values)
    except ConfigError as error:
        raise ConfigError("\n".join([str(error), *missing_parent(values)])) from error
    with quiet_imports():  # TensorFlow, which --help and an invalid configuration do not need
        from runs.run import train_run
    return train_run(config)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
