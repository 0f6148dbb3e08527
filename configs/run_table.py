"""Table of runs: progress, results, and the keys in which they differ; imports no TensorFlow."""

import fcntl
import math
from pathlib import Path

from configs.compose import load_config
from configs.schema import FREE_KEYS, to_flat
from system.errors import CommandError, RunError
from system.files import has_complete_summary, read_json_lines
from system.text import LINE_WIDTH, format_duration, format_table, format_value, print_note

RUN_FILES = ("config.yaml", "checkpoints", ".lock")
LONGEST_VALUE, LONGEST_NAME = 20, 36
# Data and parent tell a run from others; the SHA-256 of the parent's data does not, and FACTS has num_steps.
IGNORED_KEYS = FREE_KEYS - {"init_from", "data.path"} | {"init_from_data", "num_steps"}
FACTS = ("name", "state", "step", "num_steps", "loss", "bits_per_byte", "accuracy", "elapsed_seconds")


def find_runs(directories: list[Path]) -> list[Path]:
    """Runs among the directories and their subdirectories; RunError if there is no such directory."""
    if missing := [path for path in directories if not path.is_dir()]:
        raise RunError(f"{missing[0]} is not a directory")
    candidates = [path for directory in directories for path in (directory, *directory.iterdir())]
    return [path for path in dict.fromkeys(candidates) if any((path / name).exists() for name in RUN_FILES)]


def describe_run(path: Path) -> dict:
    """`FACTS` of a run, None where unknown, and its `config` by key, empty until the first checkpoint.

    The state is `complete`, `running`, `stopped` or, if the config cannot be read, `damaged`.
    """
    rows = read_json_lines(path / "metrics.jsonl")
    metrics = {key: value for row in rows for key, value in row.items()}  # the last of each
    names = [checkpoint.name.removeprefix("step-") for checkpoint in path.glob("checkpoints/step-*")]
    steps = [int(name) for name in names if name.isdecimal()]
    run = dict.fromkeys(FACTS) | {name: metrics.get(name) for name in FACTS[-3:]} | {"config": {}}
    run |= {"name": path.name, "state": "stopped", "step": max(steps, default=0)}
    run["loss"] = metrics.get("validation_loss")
    if is_locked(path / ".lock"):
        run |= {"state": "running", "step": metrics.get("step", run["step"])}
    elif has_complete_summary(path):
        run["state"] = "complete"
    if not steps and not (path / "config.yaml").exists():
        return run
    try:
        config = load_config(path / "config.yaml")
    except CommandError as error:
        print_note(str(error))
        return dict.fromkeys(FACTS) | {"name": path.name, "state": "damaged", "config": {}}
    values = {key: value for key, value in to_flat(config).items() if key not in IGNORED_KEYS}
    return run | {"num_steps": config.num_steps, "config": values}


def is_locked(path: Path) -> bool:
    if not path.is_file():  # opening a FIFO blocks
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def differing_keys(configs: list[dict]) -> list[str]:
    """Keys whose values differ between the configs; those that every config has come first."""
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    return sorted(differing, key=lambda key: sum(key not in config for config in configs))


def format_runs(runs: list[dict], keys: list[str]) -> str:
    """Table of runs, sorted by loss, with as many of the keys as fit in `LINE_WIDTH`."""
    # Bits per byte are comparable between tokenizers; images have no such loss.
    runs = sorted(runs, key=lambda run: (run["bits_per_byte"] or run["loss"] or math.inf, run["name"]))
    num_shown = len(keys)
    while (table := make_table(runs, keys[:num_shown])).index("\n") > LINE_WIDTH:
        num_shown -= 1
    if num_hidden := len(keys) - num_shown:
        table += f"\n{num_hidden} more keys differ: scripts.list_runs --json prints all"
    return table


def make_table(runs: list[dict], keys: list[str]) -> str:
    rows = []
    for run in runs:
        steps = [f"{count:,}" for count in (run["step"], run["num_steps"]) if count is not None]
        row = {
            "name": shorten(run["name"], LONGEST_NAME),
            "state": run["state"],
            "step": "/".join(steps) or None,
            "loss": run["loss"],
            "bits/byte": run["bits_per_byte"],
            "accuracy": run["accuracy"],
            "time": None if run["elapsed_seconds"] is None else format_duration(run["elapsed_seconds"]),
        }
        for key in keys:
            name = key.rpartition(".")[2]
            value = format_value(run["config"][key]) if key in run["config"] else None
            row[key if name in row else name] = value and shorten(value, LONGEST_VALUE)
        rows.append(row)
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return format_table([{name: row[name] for name in columns} for row in rows])


def shorten(text: str, width: int) -> str:
    """Text of at most `width` characters; the middle of a longer one is left out."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[head + 1 - width :]}"
