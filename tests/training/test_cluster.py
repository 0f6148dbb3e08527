"""Parsing of TF_CONFIG, and waiting for the processes in it."""

import json
import socket
import threading
import time

import pytest

from scripts.launch_local import free_addresses
from system.errors import RunError
from training.cluster import Cluster, read_cluster, wait_for_processes

WORKERS = ["one:2001", "two:2002"]


def tf_config(index=0, kind="worker", **cluster):
    return json.dumps({"cluster": cluster or {"worker": WORKERS}, "task": {"type": kind, "index": index}})


def local_cluster(*addresses, own=0):
    return Cluster(tuple(("worker", index, address) for index, address in enumerate(addresses)), own)


def test_the_chief_comes_before_the_workers_or_is_the_first_of_them():
    cluster = read_cluster({"TF_CONFIG": tf_config(1)})
    assert cluster == Cluster((("worker", 0, "one:2001"), ("worker", 1, "two:2002")), own=1)
    assert len(cluster) == 2
    assert cluster.name(0) == "worker 0 (one:2001)"
    cluster = read_cluster({"TF_CONFIG": tf_config("1", worker=WORKERS, chief=["lead:2000"])})
    assert [task[:2] for task in cluster.tasks] == [("chief", 0), ("worker", 0), ("worker", 1)]
    assert cluster.own == 2


def test_processes_are_found_in_an_error_message():
    cluster = read_cluster({"TF_CONFIG": tf_config(0)})
    message = "aborted by /job:worker/task:1: unhealthy: /job:worker/replica:0/task:1, /job:worker/task:0"
    assert cluster.named_in(message) == [1]
    assert cluster.named_in("no room") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "distribute=multi_worker needs TF_CONFIG"),
        ('{"cluster": ', "TF_CONFIG is invalid (Expecting value: line 1 column 13 (char 12)); expected {"),
        (tf_config(worker=["a:1"], ps=["b:1"]), "TF_CONFIG is invalid (cluster must be lists of host:port"),
        (tf_config(worker="a:1"), "TF_CONFIG is invalid (cluster must be lists of host:port"),
        (tf_config(kind="chief"), "TF_CONFIG is invalid (task must be one of worker 0, worker 1, got chief"),
        (tf_config(2), "TF_CONFIG is invalid (task must be one of worker 0, worker 1, got worker 2)"),
    ],
)
def test_an_invalid_tf_config_is_reported_in_one_line(text, problem):
    with pytest.raises(RunError) as caught:
        read_cluster({"TF_CONFIG": text})
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


def test_processes_wait_for_each_other(capsys):
    addresses = free_addresses(2)
    all_met = threading.Barrier(3)

    def work(own, delay):
        time.sleep(delay)
        wait_for_processes(local_cluster(*addresses, own=own))
        # In place of TensorFlow's server; the others may not have connected yet.
        with socket.create_server(("127.0.0.1", int(addresses[own].rpartition(":")[2]))):
            all_met.wait(20)

    for own, delay in enumerate((0, 0.5)):
        threading.Thread(target=work, args=(own, delay), daemon=True).start()
    all_met.wait(20)
    line = f"worker 0 ({addresses[0]}): waiting for worker 1 ({addresses[1]})"
    assert capsys.readouterr().out.splitlines() == [line]


@pytest.mark.parametrize(
    ("port", "cause"), [(None, "Address already in use"), (70_000, r"bind\(\): port must be 0-65535\.")]
)
def test_a_port_in_use_or_out_of_range_is_an_error(port, cause):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{port or taken.getsockname()[1]}"
        message = f"cannot listen at {address}, the address of this process in TF_CONFIG \\({cause}\\)\\. Is "
        with pytest.raises(RunError, match=message):
            wait_for_processes(local_cluster(address))
