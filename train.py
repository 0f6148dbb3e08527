"""Trains a model: `python train.py experiment=lm`; `python train.py --help` shows every key."""

import sys

from omegaconf import OmegaConf

from configs.help import help_text
from configs.schema import compose, parse_config
from configs.sweep import sweep
from system.command import run_command
from system.startup import quiet_imports

HELP_FLAGS = {"-h", "--help"}
SWEEP_FLAGS = {"-m", "--multirun"}


def main(arguments: list[str]) -> int | None:
    flags = set(arguments)
    plain = [argument for argument in arguments if argument not in HELP_FLAGS | SWEEP_FLAGS]
    if flags & SWEEP_FLAGS and not flags & HELP_FLAGS:
        return sweep(plain)
    cfg = compose(plain)
    if cfg is not None and flags & HELP_FLAGS:
        print(help_text(OmegaConf.to_container(cfg)))
    elif cfg is not None:
        config = parse_config(cfg)
        with quiet_imports():
            from runs.run import train_run
        return train_run(config)
    return None


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
