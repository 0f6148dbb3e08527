"""Sweeps: one run for each combination of values, each in its own process, which frees its memory."""

import hashlib
import re
import signal
import subprocess
import sys
from pathlib import Path

from configs.compose import combinations, compose, override_key
from configs.run_table import FACTS, describe_run, format_runs
from system.command import forwarding_signals, stop_signals
from system.errors import CommandError
from system.text import format_command, print_line

LONGEST_NAME = 120


def sweep(overrides: list[str], config_dir: Path | None) -> int:
    """Runs a job for each combination of values and returns the largest exit code."""
    codes, runs = [], []
    for combination in combinations(overrides):
        swept = [override for override in combination if override not in overrides]
        code, run = sweep_job(combination, swept, config_dir)
        values = {override_key(override): override.partition("=")[2] for override in swept}
        values.pop("name", None)
        codes.append(code)
        runs.append(run | {"config": values} | ({"state": f"exit {code}"} if code else {}))
    print_line(format_runs(runs, list(runs[0]["config"])))
    return max(codes)


def sweep_job(overrides: tuple[str, ...], swept: list[str], config_dir: Path | None) -> tuple[int, dict]:
    """Exit code and description of a job; overrides that do not compose are run for their error message."""
    flags = [] if config_dir is None else ["--config-dir", str(config_dir)]
    command = [sys.executable, sys.argv[0], *flags]
    try:
        values = compose(list(overrides), config_dir=config_dir)
    except CommandError:
        return run_job([*command, *overrides]), dict.fromkeys(FACTS) | {"name": " ".join(swept)}
    path = Path(str(values.get("output_dir"))).expanduser() / job_name(str(values.get("name")), swept)
    changes = [override for override in overrides if override_key(override) != "name"]
    code = run_job([*command, *changes, f"name={path.name}"])
    run = describe_run(path) if (path / "config.yaml").exists() else dict.fromkeys(FACTS)
    return code, run | {"name": path.name}


def job_name(base: str, swept: list[str]) -> str:
    changes = [override.removeprefix("++") for override in swept if override_key(override) != "name"]
    return directory_name("-".join([base, *changes]))


def directory_name(exact: str) -> str:
    """Name of a directory for a text, with a digest if it cannot hold all its characters."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", exact)
    if name == exact.replace("=", "-") and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME].rstrip('-')}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def run_job(command: list[str], *, file: object = None) -> int:
    """Prints the command, runs it and returns its exit code; its output goes to `file`, if given.

    The terminal sends Ctrl-C to the job too; SIGTERM and SIGHUP are forwarded. Each ends the sweep once the
    job has ended.
    """
    print_line(format_command(*command[1:]))
    signals = set(stop_signals()) - {signal.SIGINT}
    with subprocess.Popen(command, stdout=file) as job, forwarding_signals(signals, [job]) as received:
        try:
            code = job.wait()
        except KeyboardInterrupt:
            job.wait()
            raise
    if received:
        sys.exit(128 + received[0])
    return 128 - code if code < 0 else code  # of a signal, as in a shell
