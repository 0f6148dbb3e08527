"""Trains a model: `python train.py experiment=lm`; `python train.py --help` explains the keys."""

import argparse
import sys
from pathlib import Path

from configs.compose import compose, to_yaml
from configs.foreign_names import answer_to
from configs.help import COMMON, help_text
from configs.schema import parse_config
from configs.sweep import sweep
from system.command import quiet_imports, run_command
from system.errors import ConfigError
from system.text import print_error, print_line, print_result


def main(arguments: list[str]) -> int | None:
    """Trains, sweeps or prints help; returns the exit code."""
    options = parse(arguments)
    if options.multirun and options.help is None:
        return sweep(options.overrides, options.config_dir)
    report = print_error if options.help or options.cfg else print_line
    values = compose(options.overrides, config_dir=options.config_dir, report=report)
    if options.help or options.cfg:
        print_result(help_text(values, options.help) if options.help else to_yaml(values))
        return None
    config = parse_config(values)
    with quiet_imports():  # TensorFlow, which --help and an invalid configuration do not need
        from runs.run import train_run
    return train_run(config)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python train.py", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", nargs="?", const=COMMON)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("-m", "--multirun", action="store_true")
    mode.add_argument("--cfg", choices=["job"])
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("overrides", nargs="*")
    options, flags = parser.parse_known_intermixed_args(arguments)
    if flags:
        lines = (f"unknown flag {flag!r}; {answer_to(flag) or 'write key=value'}" for flag in flags)
        raise ConfigError("\n".join(lines))
    if "=" in (options.help or ""):
        options.overrides, options.help = [options.help, *options.overrides], COMMON
    if options.config_dir is not None and not options.config_dir.is_dir():
        raise ConfigError(f"--config-dir {options.config_dir} is not a directory")
    return options


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
