"""The workers of a run, as TF_CONFIG tells each of them; checked before TensorFlow is imported."""

import contextlib
import json
import math
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from system.errors import RunError, reason

JOBS = ("chief", "worker")
EXAMPLE = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
ADDRESS = re.compile(r"\[?[^\s\]]+\]?:\d{1,5}")
MAX_UNANSWERED = 1024
TELL_EVERY_SECONDS, RETRY_EVERY_SECONDS, CONNECT_SECONDS = 30, 0.2, 5
TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")


@dataclass(frozen=True)
class Cluster:
    """The processes of a run.

    Attributes:
        tasks: (type, index, address) of each, the chief first.
        own: number of this process among them.
    """

    tasks: tuple[tuple[str, int, str], ...]
    own: int

    def __len__(self) -> int:
        return len(self.tasks)

    def name(self, number: int) -> str:
        """Of a process, in words."""
        kind, index, address = self.tasks[number]
        return f"{kind} {index} ({address})"

    def named_in(self, text: str) -> list[int]:
        """Numbers of the other processes that a message of TensorFlow names."""
        found = {(kind, int(index)) for kind, index in TASK.findall(text)}
        return [number for number, task in enumerate(self.tasks) if task[:2] in found and number != self.own]


def read_cluster(environment: Mapping[str, str]) -> Cluster:
    """The cluster in TF_CONFIG, and this process in it.

    Raises:
        RunError: if there is none, or it cannot be what is meant.
    """
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        raise RunError(
            "distribute=multi_worker needs TF_CONFIG, which names all processes (docs/scaling.md). For a try "
            "on this machine: python -m scripts.launch_local --workers 2 -- distribute=multi_worker"
        )
    try:
        config = json.loads(text)
    except ValueError as error:
        raise RunError(f"TF_CONFIG is not JSON ({reason(error)}); expected {EXAMPLE}") from error
    return parse_cluster(config)


def parse_cluster(config: object) -> Cluster:
    """Raises RunError for the first thing that is wrong."""
    jobs = part_of(config, "cluster")
    if unknown := sorted(jobs.keys() - set(JOBS)):
        raise RunError(f"TF_CONFIG names {', '.join(unknown)}: a run has only a chief and workers")
    for job, addresses in jobs.items():
        if not isinstance(addresses, list) or not addresses or not all(map(is_address, addresses)):
            raise RunError(
                f"TF_CONFIG cluster.{job} must be a list of host:port, got {json.dumps(addresses)}"
            )
    if len(jobs.get("chief", [])) > 1:
        raise RunError(
            f"TF_CONFIG names {len(jobs['chief'])} chiefs, expected one: {', '.join(jobs['chief'])}"
        )
    tasks = tuple((job, index, address) for job in JOBS for index, address in enumerate(jobs.get(job, [])))
    addresses = [address for _, _, address in tasks]
    if repeated := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise RunError(f"TF_CONFIG gives {', '.join(repeated)} to two processes: each needs its own")
    task = part_of(config, "task")
    kind, index = task.get("type"), task.get("index")
    index = int(index) if isinstance(index, str) and index.isdigit() else index
    if kind not in jobs:
        raise RunError(f"TF_CONFIG task.type must be one of {', '.join(jobs)}, got {json.dumps(kind)}")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(jobs[kind]):
        raise RunError(f"TF_CONFIG task.index must be 0 to {len(jobs[kind]) - 1}, got {json.dumps(index)}")
    return Cluster(tasks, [task[:2] for task in tasks].index((kind, index)))


def part_of(config: object, key: str) -> dict:
    part = config.get(key) if isinstance(config, dict) else None
    if not isinstance(part, dict) or not part:
        raise RunError(f"TF_CONFIG has no {key!r}; expected {EXAMPLE}")
    return part


def is_address(value: object) -> bool:
    return isinstance(value, str) and ADDRESS.fullmatch(value) is not None


def meet(cluster: Cluster, report: Callable[[str], None] = print) -> None:
    """Waits until every process of the cluster is there.

    TensorFlow waits too, but tells nobody for whom, and Ctrl-C does not reach it.

    Args:
        report: told now and then who is not there.

    Raises:
        RunError: if another process listens where this one is to.
    """
    missing, told = [number for number in range(len(cluster)) if number != cluster.own], -math.inf
    with listening(cluster.tasks[cluster.own][2]):
        # One that was there is not asked again: it may be between this and TensorFlow's server.
        while missing := [number for number in missing if not is_there(cluster, number)]:
            if time.monotonic() - told > TELL_EVERY_SECONDS:
                names = ", ".join(map(cluster.name, missing))
                report(f"{cluster.name(cluster.own)}: waiting for {names}")
                told = time.monotonic()
            time.sleep(RETRY_EVERY_SECONDS)


@contextlib.contextmanager
def listening(address: str) -> Iterator[None]:
    """Inside it, others can connect to the port of this address."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as TensorFlow's server does
        try:
            server.bind(("", int(address.rpartition(":")[2])))
            server.listen(MAX_UNANSWERED)
        except (OSError, OverflowError) as error:
            raise RunError(
                f"cannot listen at {address}, which TF_CONFIG gives to this process ({reason(error)}): is it "
                "running already, or another one with the same type and index?"
            ) from error
        yield


def is_there(cluster: Cluster, number: int) -> bool:
    """Whether a process, or in its place TensorFlow's server, listens already."""
    host, _, port = cluster.tasks[number][2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError):
        return False
    return True
