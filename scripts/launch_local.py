"""Tries several workers on one machine.

python -m scripts.launch_local --workers 2 -- experiment=lm distribute=multi_worker
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from system.command import run_command
from system.terminal import print_line
from training.signals import SIGNALS, hangup_signals

PROGRAM = Path(__file__).resolve().parents[1] / "train.py"
# Seconds in which the others tell by themselves that one has ended, and then those in which they obey.
PATIENCE, GRACE = 30, 10


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    return launch([sys.executable, str(PROGRAM), *options.overrides], num_workers=options.workers)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.launch_local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=positive, default=2, help="processes to start; 2 when not given")
    parser.add_argument("overrides", nargs="*", help="after --: what train.py is given")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def launch(command: list[str], *, num_workers: int) -> int:
    """Runs the command once a worker, each line behind its number; the first exit code that is not 0.

    When one fails, so do the others: what has not ended by itself is ended.
    """
    addresses = free_addresses(num_workers)
    workers = [start(command, addresses, index) for index in range(num_workers)]
    readers = [threading.Thread(target=relay, args=(worker, index)) for index, worker in enumerate(workers)]
    for reader in readers:
        reader.start()
    with forwarded(workers):
        code = first_failure(workers)
    for reader in readers:
        reader.join()
    return code


def free_addresses(count: int) -> list[str]:
    """Ports of this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def start(command: list[str], addresses: list[str], index: int) -> subprocess.Popen:
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return subprocess.Popen(
        command,
        env=os.environ | {"TF_CONFIG": json.dumps(cluster), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches them once, through this process
    )


def relay(worker: subprocess.Popen, index: int) -> None:
    for line in worker.stdout:
        print_line(f"[worker {index}] " + line.removesuffix("\n"))


@contextlib.contextmanager
def forwarded(workers: list[subprocess.Popen]):
    """Inside it, Ctrl-C, SIGTERM and SIGHUP are for the workers, which save and end."""

    def forward(number, frame):
        for worker in workers:
            worker.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (*SIGNALS, *hangup_signals())}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def first_failure(workers: list[subprocess.Popen]) -> int:
    """Waits for all; the exit code of the first that ends with another than 0, or 0."""
    while not (failed := [worker for worker in workers if worker.poll()]):
        if all(worker.poll() == 0 for worker in workers):
            return 0
        time.sleep(0.1)
    for end, seconds in (
        (None, PATIENCE),
        (subprocess.Popen.terminate, GRACE),
        (subprocess.Popen.kill, GRACE),
    ):
        deadline = time.monotonic() + seconds
        for worker in workers:
            if end is not None and worker.poll() is None:
                end(worker)
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.0, deadline - time.monotonic()))
    code = failed[0].returncode
    return 128 - code if code < 0 else code  # a signal, as a shell counts it


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
