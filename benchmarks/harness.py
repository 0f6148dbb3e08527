"""Times contenders on the same work in turn, each in a process of its own that lives until all are done."""

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

from system.startup import silenced_standard_error

ROOT = Path(__file__).resolve().parents[1]
SERVE = "from benchmarks.harness import serve; serve()"
FAILED = "failed"
# The first call traces and compiles.
WARM_UPS = 1


class UnavailableError(Exception):
    """Why a contender cannot take part here, in a line."""


class Work(NamedTuple):
    """What is timed: a call that returns when `count` units of work are done."""

    call: Callable[[], object]
    count: int = 1


class Contender(NamedTuple):
    """One of those that do the same work: `make`, MODULE:FUNCTION, makes its `Work` of sizes and options."""

    name: str
    make: str
    options: dict


class Cost(NamedTuple):
    """Seconds of a unit of work, median and quartiles over the rounds; bytes by which the process grew."""

    seconds: float
    first_quartile: float
    third_quartile: float
    peak_bytes: int


def costs(contenders: Sequence[Contender], sizes: dict, *, repeats: int) -> list[Cost | str]:
    """What each costs, or why there is no number."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(contender, sizes)) for contender in contenders]
        for number in range(repeats):
            # There and back: what slows the machine down from turn to turn falls on all alike.
            for process in processes if number % 2 == 0 else reversed(processes):
                process.take_turn()
        return [process.cost() for process in processes]


class Process(contextlib.AbstractContextManager):
    """A contender that is ready for its turn: a line to its input asks for one, a line of JSON answers."""

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
        self._problem = self._answer().get("problem")

    def take_turn(self) -> None:
        if self._problem is None:
            with contextlib.suppress(BrokenPipeError):
                print(file=self._process.stdin, flush=True)
            self._turns.append(self._answer())
            self._problem = self._turns[-1].get("problem")

    def cost(self) -> Cost | str:
        if self._problem is not None:
            return self._problem
        low, median, high = np.quantile([turn["seconds"] for turn in self._turns], (0.25, 0.5, 0.75)).tolist()
        return Cost(median, low, high, self._turns[-1]["peak_bytes"])

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # the end of its input is its own

    def _answer(self) -> dict:
        """What it says next; that it failed when it has ended, or was killed for its memory."""
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"problem": FAILED}


def serve() -> None:
    """The process of a contender: does the work once for each line of standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    module, function = sys.argv[1].split(":")
    try:
        with silenced_standard_error():
            module = importlib.import_module(module)
        work = getattr(module, function)(**json.loads(sys.argv[2]))
    except ModuleNotFoundError as error:
        return answer(problem=f"{error.name} is not installed: pip install -r requirements-bench.txt")
    except UnavailableError as error:
        return answer(problem=str(error))
    # Counted from before the first call: what the work needs, without the libraries and the weights.
    before = peak_bytes()
    for _ in range(WARM_UPS):
        work.call()
    answer()
    for _ in sys.stdin:
        started = time.perf_counter()
        work.call()
        seconds = (time.perf_counter() - started) / work.count
        answer(seconds=seconds, peak_bytes=peak_bytes() - before)


def run(*command: str) -> None:
    """Runs Python with these arguments in the repository, to its end."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)


def peak_bytes() -> int:
    """The most memory that this process has had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # macOS; on Linux getrusage begins with the peak of the process that started this one
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
