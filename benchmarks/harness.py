"""Timing of several implementations of the same work, each in its own process, in turn."""

import contextlib
import importlib
import multiprocessing
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system.command import silenced_standard_error
from system.errors import reason
from system.text import ROOT, format_command

CALLS = 20  # of short work, in a turn
CHANNELS, CLASSES, PATCH_SIZE = 3, 10, 4
FAILED = "failed"
SPAWN = multiprocessing.get_context("spawn")


class Work(NamedTuple):
    """A call that is timed, and the number of units of work that it does."""

    call: Callable[[], object]
    count: int = 1


class Contender(NamedTuple):
    """An implementation: `make`, MODULE:FUNCTION, returns its `Work` from the sizes and these options."""

    name: str
    make: str
    options: dict
    is_quick: bool = True  # measured with --quick too


class Workload(NamedTuple):
    """Work that several contenders do; the first is the reference of the ratios."""

    title: str
    sizes: dict  # arguments of every contender
    contenders: list[Contender]
    # Name of a rate, and its units in a unit of work; None for commands: no warm-up, no measured memory.
    rate: tuple[str, float] | None
    seconds: tuple[float, float] = (20, 2)  # to start a contender, and for a turn, for the announced total


def measure(workload: Workload, *, repeats: int) -> list[dict]:
    """A row for each contender: its times, or the reason why it is `left_out`."""
    processes, turns, problems = {}, {}, {}

    def attempt(name, function, *arguments):
        if name not in problems:
            try:
                return processes[name].submit(function, *arguments).result()
            except Exception as error:
                problems[name] = describe(error)

    with contextlib.ExitStack() as stack:
        for name, make, options, _ in workload.contenders:
            processes[name] = stack.enter_context(ProcessPoolExecutor(1, mp_context=SPAWN))
            turns[name] = []
            attempt(name, prepare, make, workload.sizes | options, workload.rate is not None)
        for number in range(repeats):
            # The order alternates, so that a machine that slows down slows all contenders alike.
            for name in turns if number % 2 == 0 else reversed(turns):
                turns[name].append(attempt(name, take_turn))
    rows = []
    for name in turns:
        facts = {"left_out": problems[name]} if name in problems else times_of(workload, turns[name])
        rows.append({"work": workload.title, "by": name} | facts)
    measured = [row for row in rows if "left_out" not in row]
    for row in measured:
        row["ratio"] = row["milliseconds"] / measured[0]["milliseconds"]
    return rows


def describe(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        command = format_command("-m", "pip", "install", "-r", ROOT / "requirements-bench.txt")
        return f"{error.name} is not installed: {command}"
    return f"{FAILED} ({type(error).__name__}: {reason(error)})"


def times_of(workload: Workload, turns: list[tuple[float, int]]) -> dict:
    """Median and quartiles over the turns, and memory and rate."""
    seconds, peaks = zip(*turns, strict=True)
    first_quartile, median, third_quartile = (1e3 * np.quantile(seconds, (0.25, 0.5, 0.75))).tolist()
    times = {"milliseconds": median, "first_quartile": first_quartile, "third_quartile": third_quartile}
    if workload.rate is None:
        return times
    unit, number = workload.rate
    return times | {"peak_megabytes": round(peaks[-1] / 1e6), unit: 1e3 * number / median}


# The functions below run in the process of a contender.
prepared: list = []  # its work, and its peak memory before the first call


def prepare(make: str, options: dict, warm_up: bool) -> None:
    """Makes the work and, with `warm_up`, does it once, which traces and compiles."""
    os.dup2(2, 1)  # what libraries print goes to standard error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module, function = make.split(":")
    with silenced_standard_error():  # TensorFlow prints when it is imported and initializes its devices
        work = getattr(importlib.import_module(module), function)(**options)
    # Memory is counted from here: without the libraries and the weights.
    prepared[:] = work, peak_bytes()
    if warm_up:
        work.call()


def take_turn() -> tuple[float, int]:
    """Seconds of a unit of work, and peak memory in bytes."""
    work, before = prepared
    started = time.perf_counter()
    work.call()
    return (time.perf_counter() - started) / work.count, peak_bytes() - before


def peak_bytes() -> int:
    """Peak memory of this process on Linux, where getrusage includes the peak of the parent process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[1])
