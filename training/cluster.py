"""Processes of a run on several hosts, from TF_CONFIG."""

import json
import math
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from system.errors import RunError, reason
from system.text import format_command, print_line

JOBS = ("chief", "worker")
EXAMPLE = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
ADDRESS = re.compile(r"\[?[^\s\]]+\]?:\d{1,5}")
BACKLOG = 1024
REPORT_EVERY_SECONDS, RETRY_EVERY_SECONDS, CONNECT_SECONDS = 30, 0.2, 5
# A task in an error message of TensorFlow.
TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")


@dataclass(frozen=True)
class Cluster:
    """Processes of a run."""

    tasks: tuple[tuple[str, int, str], ...]  # (type, index, address) of each process, the chief first
    own: int  # index of this process in `tasks`

    def __len__(self) -> int:
        return len(self.tasks)

    def name(self, number: int) -> str:
        """Name of a process, such as `worker 1 (host:port)`."""
        kind, index, address = self.tasks[number]
        return f"{kind} {index} ({address})"

    def named_in(self, text: str) -> list[int]:
        """Indices of the other processes that an error message of TensorFlow names."""
        named = {(kind, int(index)) for kind, index in TASK.findall(text)}
        return [number for number, task in enumerate(self.tasks) if task[:2] in named and number != self.own]


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """Cluster in TF_CONFIG; RunError if there is none or it is invalid."""
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        command = format_command("-m", "scripts.launch_local", "--", "distribute=multi_worker")
        raise RunError(
            "distribute=multi_worker needs TF_CONFIG, which lists all processes (docs/scaling.md). To try it "
            f"on this machine: {command}"
        )
    try:
        config = json.loads(text)
        jobs, own = config["cluster"], "{type} {index}".format(**config["task"])
        tasks = tuple((job, n, address) for job in JOBS for n, address in enumerate(jobs.get(job, [])))
        names = [f"{job} {index}" for job, index, _ in tasks]
        if not jobs.keys() <= set(JOBS) or not all(ADDRESS.fullmatch(str(address)) for *_, address in tasks):
            raise ValueError(f"cluster must be lists of host:port for worker and, optionally, chief: {jobs}")
        if own not in names:
            raise ValueError(f"task must be one of {', '.join(names)}, got {own}")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise RunError(f"TF_CONFIG is invalid ({reason(error)}); expected {EXAMPLE}") from error
    return Cluster(tasks, names.index(own))


def wait_for_processes(cluster: Cluster) -> None:
    """Waits until every process of the cluster has started, and names them, which TensorFlow does not."""
    missing, reported = [number for number in range(len(cluster)) if number != cluster.own], -math.inf
    with listen(cluster.tasks[cluster.own][2]):
        # One answer suffices: later a process may not listen until TensorFlow's server starts.
        while missing := [number for number in missing if not is_listening(cluster.tasks[number][2])]:
            if time.monotonic() - reported > REPORT_EVERY_SECONDS:
                names = ", ".join(map(cluster.name, missing))
                print_line(f"{cluster.name(cluster.own)}: waiting for {names}")
                reported = time.monotonic()
            time.sleep(RETRY_EVERY_SECONDS)


def listen(address: str) -> socket.socket:
    """Socket that accepts connections at the port of `address`, which TensorFlow's server can reuse later."""
    try:
        return socket.create_server(("", int(address.rpartition(":")[2])), backlog=BACKLOG)
    except (OSError, OverflowError) as error:  # the latter for a port above 65535
        cause = reason(error).partition(" (while attempting")[0]  # without Python's name of the address
        raise RunError(
            f"cannot listen at {address}, the address of this process in TF_CONFIG ({cause}). Is another "
            "process with the same task running?"
        ) from error


def is_listening(address: str) -> bool:
    """Whether a process, or later its TensorFlow server, accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError):
        return False
    return True
