"""Runs of one sweep, each in a process of its own, so that its memory is returned."""

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from configs.schema import combinations, compose, hydra_errors
from system.errors import ConfigError
from system.text import format_table

LONGEST_NAME = 120
# Of a summary; the first has a column in every table.
MEASURES = ("validation_loss", "accuracy")
# Any text of such overrides joined by '-' can be taken apart again: a key begins with a letter, and what
# follows a '-' within a value is a digit.
PLAIN_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=\w[\w.]*(-\d[\w.]*)*", re.ASCII)


@dataclass(frozen=True)
class Job:
    """A run that has ended."""

    name: str
    exit_code: int
    measures: dict[str, float]


def sweep(arguments: list[str]) -> int:
    """A job for each combination of values, in a process of its own; the worst exit code."""
    flags = [argument for argument in arguments if not is_override(argument)]
    overrides = [argument for argument in arguments if is_override(argument)]
    jobs = [sweep_job(flags, combination) for combination in combinations(overrides)]
    print(format_jobs(jobs))
    return max(job.exit_code for job in jobs)


def is_override(argument: str) -> bool:
    return argument.startswith("~") or ("=" in argument and not argument.startswith("-"))


def sweep_job(flags: list[str], overrides: tuple[str, ...]) -> Job:
    """One job; what does not compose is run as it is, and says so itself."""
    command = [sys.executable, sys.argv[0], *flags]
    try:
        if (cfg := compose([*flags, *overrides])) is None:
            return Job(" ".join(overrides), 0, {})
        with hydra_errors():
            name, output_dir = job_name(str(cfg.name), overrides), Path(str(cfg.output_dir))
    except ConfigError:
        return Job(" ".join(overrides), run_job([*command, *overrides]), {})
    changes = [override for override in overrides if override_key(override) != "name"]
    exit_code = run_job([*command, *changes, f"name={name}"])
    return Job(name, exit_code, measures(output_dir / name))


def job_name(base: str, overrides: list[str]) -> str:
    """Directory name that is the same for the same overrides, and for no others."""
    changes = [change.removeprefix("++") for change in overrides if override_key(change) != "name"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([base, *changes]))
    is_exact = re.fullmatch(r"[\w.-]+", base, re.ASCII) and all(map(PLAIN_OVERRIDE.fullmatch, changes))
    if is_exact and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join([base, *changes]).encode()).hexdigest()[:8]
    return f"{name[:LONGEST_NAME].rstrip('-')}-{digest}"


def override_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def run_job(command: list[str]) -> int:
    """Exit code of the command, printed before it starts.

    Ctrl-C reaches it too, and SIGTERM and SIGHUP are passed on to it; each ends the sweep once it has ended.
    """
    print(shlex.join(["python", *command[1:]]), flush=True)
    came = []
    with subprocess.Popen(command) as process:

        def pass_on(number, frame):
            came.append(number)
            process.send_signal(number)

        passed_on = (signal.SIGTERM, signal.SIGHUP)
        heard = [number for number in passed_on if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, pass_on) for number in heard}
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    if came:
        sys.exit(128 + came[0])
    return 128 - code if code < 0 else code  # a signal, as a shell counts it


def measures(run_dir: Path) -> dict[str, float]:
    """Final loss, in nats per token or per image, and accuracy if the run has one and a summary."""
    try:
        summary = json.loads((run_dir / "summary.json").read_text())
        return {name: summary[name] for name in MEASURES if name in summary}
    except (OSError, ValueError, TypeError):
        return {}


def format_jobs(jobs: list[Job]) -> str:
    """One line a job: name, exit code, validation loss, and accuracy where a job has one."""
    names = [name for name in MEASURES if name == MEASURES[0] or any(name in job.measures for job in jobs)]
    rows = [
        {"job": job.name, "exit_code": job.exit_code, **{name: job.measures.get(name) for name in names}}
        for job in jobs
    ]
    return format_table(rows)
