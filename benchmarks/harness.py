"""Timing of several implementations of the same work, each in its own process, in turn."""

import contextlib
import importlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system.command import silenced_standard_error
from system.text import format_command

ROOT = Path(__file__).resolve().parents[1]
CALLS = 20  # of short work, in a turn
CHANNELS, CLASSES, PATCH_SIZE = 3, 10, 4
FAILED = "failed"
SPAWN = multiprocessing.get_context("spawn")


class UnavailableError(Exception):
    """A contender cannot take part on this machine; the message is the reason in one line."""


class Work(NamedTuple):
    """A call that is timed, and the number of units of work that it does."""

    call: Callable[[], object]
    count: int = 1


class Contender(NamedTuple):
    """An implementation: `make`, MODULE:FUNCTION, returns its `Work` from the sizes and these options."""

    name: str
    make: str
    options: dict


class Workload(NamedTuple):
    """Work that several contenders do.

    sizes: arguments of every contender.
    contenders: the first is the reference of the ratios.
    rate: name of a rate, and its units in a unit of work. None for commands, whose own processes are not
        measured in memory either.
    """

    title: str
    sizes: dict
    contenders: list[Contender]
    rate: tuple[str, float] | None


def measure(workload: Workload, *, repeats: int) -> tuple[list[dict], list[tuple[str, str]]]:
    """A row for each contender that can be measured; name and problem of each of the others."""
    with contextlib.ExitStack() as stack:
        contenders = workload.contenders
        processes = [stack.enter_context(Process(contender, workload.sizes)) for contender in contenders]
        for number in range(repeats):
            # The order alternates, so that a machine that slows down slows all contenders alike.
            for process in processes if number % 2 == 0 else reversed(processes):
                process.take_turn()
    rows = [make_row(workload, process) for process in processes if process.problem is None]
    for row in rows:
        row["ratio"] = row["milliseconds"] / rows[0]["milliseconds"]
    return rows, [(process.name, process.problem) for process in processes if process.problem is not None]


class Process(contextlib.AbstractContextManager):
    """Process of a contender, which has prepared its work and done it once.

    turns: seconds of a unit of work, and peak memory in bytes, of each turn.
    problem: the reason why the contender cannot be measured.
    """

    def __init__(self, contender: Contender, sizes: dict):
        self.name, self.turns, self.problem = contender.name, [], None
        self._connection, remote = SPAWN.Pipe()
        arguments = contender.make, sizes | contender.options, remote
        self._process = SPAWN.Process(target=serve, args=arguments)
        self._process.start()
        remote.close()  # so that the end of the process ends the connection
        self._receive()

    def take_turn(self) -> None:
        if self.problem is None:
            with contextlib.suppress(BrokenPipeError):
                self._connection.send("turn")
            self.turns.append(self._receive())

    def _receive(self) -> object:
        try:
            self.problem, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):  # the process has ended
            self.problem, answer = FAILED, None
        return answer

    def __exit__(self, *_) -> None:
        self._connection.close()  # which ends the process
        self._process.join()


def make_row(workload: Workload, process: Process) -> dict:
    """Times, median and quartiles over the turns, memory and rate of a contender."""
    seconds, peaks = zip(*process.turns, strict=True)
    first_quartile, median, third_quartile = (1e3 * np.quantile(seconds, (0.25, 0.5, 0.75))).tolist()
    row = {"work": workload.title, "by": process.name, "milliseconds": median}
    row |= {"first_quartile": first_quartile, "third_quartile": third_quartile}
    if workload.rate is not None:
        unit, number = workload.rate
        row |= {"peak_megabytes": round(peaks[-1] / 1e6), unit: 1e3 * number / median}
    return row


def serve(make: str, options: dict, connection: Connection) -> None:
    """Main function of a contender's process: prepares the work, and does it once for each message.

    Sends pairs of a problem, or None, and the seconds and peak memory of a turn.
    """
    os.dup2(2, 1)  # what libraries print goes to standard error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module, function = make.split(":")
    try:
        with silenced_standard_error():  # TensorFlow prints when it is imported and initializes its devices
            work = getattr(importlib.import_module(module), function)(**options)
    except ModuleNotFoundError as error:
        command = format_command("-m", "pip", "install", "-r", ROOT / "requirements-bench.txt")
        return connection.send((f"{error.name} is not installed: {command}", None))
    except UnavailableError as error:
        return connection.send((str(error), None))
    # Memory is counted from here: without the libraries and the weights.
    before = peak_bytes()
    work.call()  # traces and compiles
    connection.send((None, None))
    with contextlib.suppress(EOFError):
        while connection.recv():
            started = time.perf_counter()
            work.call()
            seconds = (time.perf_counter() - started) / work.count
            connection.send((None, (seconds, peak_bytes() - before)))


def peak_bytes() -> int:
    """Peak memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS; on Linux, getrusage includes the peak of the parent process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(
        1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")
    )
