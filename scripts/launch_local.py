"""Runs workers of train.py on this machine: `python -m scripts.launch_local -- distribute=multi_worker`.

The workers, two by default, train one model together, to try multi-worker training.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/launch_local.py`

from system.command import forwarding_signals, run_command, stop_signals
from system.text import ROOT, print_line

PATIENCE = 30  # seconds for the other workers to end by themselves after a failure, before they are killed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.launch_local", description=__doc__)
    workers = "number of processes, at most 16 (default %(default)s)"
    parser.add_argument("--workers", type=int, choices=range(1, 17), metavar="N", default=2, help=workers)
    parser.add_argument("overrides", nargs="*", help="arguments of train.py, after --")
    options = parser.parse_args(arguments)
    return launch([sys.executable, str(ROOT / "train.py"), *options.overrides], num_workers=options.workers)


def launch(command: list[str], *, num_workers: int) -> int:
    """Runs `command` for each worker, prints their output with their numbers, and returns an exit code."""
    addresses = free_addresses(num_workers)
    workers = [start(command, addresses, index) for index in range(num_workers)]
    with ThreadPoolExecutor(num_workers) as readers, forwarding_signals(stop_signals(), workers):
        for index, worker in enumerate(workers):
            readers.submit(relay, worker, index)
        return wait(workers)


def free_addresses(count: int) -> list[str]:
    """Unused ports of this machine, as host:port."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
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
        start_new_session=True,  # so that Ctrl-C reaches the workers once, from this process
    )


def relay(worker: subprocess.Popen, index: int) -> None:
    for line in worker.stdout:
        print_line(f"[worker {index}] " + line.removesuffix("\n"))


def wait(workers: list[subprocess.Popen]) -> int:
    while not (failed := [worker for worker in workers if worker.poll()]):
        if all(worker.poll() == 0 for worker in workers):
            return 0
        time.sleep(0.1)
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.0, deadline - time.monotonic()))
        worker.kill()  # does nothing to a worker that has ended
    code = failed[0].returncode
    return 128 - code if code < 0 else code  # a shell reports signal n as 128 + n


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
