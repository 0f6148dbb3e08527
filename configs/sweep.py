"""Sweeps: one run for each combination of values, each in its own process, which frees its memory."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from configs.compose import combinations, compose, override_key
from system.command import stop_signals
from system.errors import ConfigError
from system.text import format_command, format_table, print_line

LONGEST_NAME = 120
# A name of such overrides joined by '-' is unambiguous: a key begins with a letter, and a '-' within a value
# is followed by a digit.
EXACT_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=\w[\w.]*(-\d[\w.]*)*", re.ASCII)


@dataclass(frozen=True)
class Job:
    """A finished run."""

    name: str
    exit_code: int
    measures: dict[str, float]


def sweep(overrides: list[str], config_dir: Path | None) -> int:
    """Runs a job for each combination of values and returns the largest exit code."""
    jobs = [sweep_job(combination, config_dir) for combination in combinations(overrides)]
    print_line(format_jobs(jobs))
    return max(job.exit_code for job in jobs)


def sweep_job(overrides: tuple[str, ...], config_dir: Path | None) -> Job:
    """Runs one job; overrides that do not compose are run as they are, for their error message."""
    flags = [] if config_dir is None else ["--config-dir", str(config_dir)]
    command = [sys.executable, sys.argv[0], *flags]
    try:
        values = compose(list(overrides), config_dir=config_dir)
    except ConfigError:
        return Job(" ".join(overrides), run_job([*command, *overrides]), {})
    name, output_dir = job_name(str(values.get("name")), overrides), Path(str(values.get("output_dir")))
    changes = [override for override in overrides if override_key(override) != "name"]
    exit_code = run_job([*command, *changes, f"name={name}"])
    return Job(name, exit_code, measures(output_dir / name))


def job_name(base: str, overrides: list[str]) -> str:
    """Directory name that is unique to the overrides."""
    changes = [change.removeprefix("++") for change in overrides if override_key(change) != "name"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([base, *changes]))
    is_exact = re.fullmatch(r"[\w.-]+", base, re.ASCII) and all(map(EXACT_OVERRIDE.fullmatch, changes))
    if is_exact and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join([base, *changes]).encode()).hexdigest()[:8]
    return f"{name[:LONGEST_NAME].rstrip('-')}-{digest}"


def run_job(command: list[str]) -> int:
    """Prints the command, runs it and returns its exit code.

    The terminal sends Ctrl-C to the job too; SIGTERM and SIGHUP are forwarded. Each ends the sweep once the
    job has ended.
    """
    print_line(format_command(*command[1:]))
    received = []
    with subprocess.Popen(command) as process:

        def forward(number, frame):
            received.append(number)
            process.send_signal(number)

        forwarded = set(stop_signals()) - {signal.SIGINT}
        previous = {number: signal.signal(number, forward) for number in forwarded}
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if received:
        sys.exit(128 + received[0])
    return 128 - code if code < 0 else code  # of a signal, as in a shell


def measures(run_dir: Path) -> dict[str, float]:
    """Final loss in nats per token or image, and accuracy where there is one; empty without a summary."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
        return {
            name: summary[name]
            for name in ("validation_loss", "bits_per_byte", "accuracy")
            if name in summary
        }
    except (OSError, ValueError, TypeError):
        return {}


def format_jobs(jobs: list[Job]) -> str:
    """Table of name, exit code, validation loss, and accuracy if any job has one."""
    columns = {"validation_loss": None} | {name: None for job in jobs for name in job.measures}
    return format_table(
        [{"job": job.name, "exit_code": job.exit_code} | columns | job.measures for job in jobs]
    )
