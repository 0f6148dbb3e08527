"""Timing of several implementations of the same work, each in its own process, in turn."""

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from system.command import silenced_standard_error

ROOT = Path(__file__).resolve().parents[1]
SERVE = "from benchmarks.harness import serve; serve()"
FAILED = "failed"


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


class Cost(NamedTuple):
    """Seconds of a unit of work, median and quartiles over the rounds, and growth of the process in bytes."""

    seconds: float
    first_quartile: float
    third_quartile: float
    peak_bytes: int


def measure(contenders: Sequence[Contender], sizes: dict, *, repeats: int) -> list[Cost | str]:
    """Cost of each contender, or the reason why it has none."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(contender, sizes)) for contender in contenders]
        for number in range(repeats):
            # The order alternates, so that a machine that slows down slows all contenders alike.
            for process in processes if number % 2 == 0 else reversed(processes):
                process.take_turn()
        return [process.cost() for process in processes]


class Process(contextlib.AbstractContextManager):
    """Process of a contender: each line of its input starts a turn, and a line of JSON answers."""

    def __init__(self, contender: Contender, sizes: dict):
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, contender.make, json.dumps(sizes | contender.options)],
            cwd=ROOT,
            env={"TF_CPP_MIN_LOG_LEVEL": "2"} | os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._turns = []
        self._problem = self._read_answer().get("problem")

    def take_turn(self) -> None:
        if self._problem is None:
            with contextlib.suppress(BrokenPipeError):
                print(file=self._process.stdin, flush=True)
            self._turns.append(self._read_answer())
            self._problem = self._turns[-1].get("problem")

    def cost(self) -> Cost | str:
        if self._problem is not None:
            return self._problem
        seconds = [turn["seconds"] for turn in self._turns]
        first_quartile, median, third_quartile = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
        return Cost(median, first_quartile, third_quartile, self._turns[-1]["peak_bytes"])

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # closes its input, which ends it

    def _read_answer(self) -> dict:
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"problem": FAILED}  # it has ended


def serve() -> None:
    """Main function of a contender's process: does the work once for each line of standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    module, function = sys.argv[1].split(":")
    try:
        with silenced_standard_error():  # TensorFlow prints when it is imported and initializes its devices
            work = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    except ModuleNotFoundError as error:
        return answer(problem=f"{error.name} is not installed: pip install -r requirements-bench.txt")
    except UnavailableError as error:
        return answer(problem=str(error))
    # Memory is counted from here: without the libraries and the weights.
    before = peak_bytes()
    work.call()  # traces and compiles
    answer()
    for _ in sys.stdin:
        started = time.perf_counter()
        work.call()
        seconds = (time.perf_counter() - started) / work.count
        answer(seconds=seconds, peak_bytes=peak_bytes() - before)


def run_python(*arguments: str) -> None:
    """Runs Python with these arguments in the repository until it ends."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


def peak_bytes() -> int:
    """Peak memory of this process."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS; on Linux, getrusage includes the peak of the parent process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(
        1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")
    )
