"""Replicas on one machine and on several, against one device: each strategy in processes of its own."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from scripts.launch_local import free_addresses
from system.errors import RunError
from tests.comparison import rows_of, tensors_of
from tests.replicas import BATCH, CURVES, OF_ONE_MACHINE, OF_SEVERAL, trained
from tests.run_helpers import copy_of, refusal, wait_for
from training.distribution import ONE_DEVICE, Distribution

# Most of the time is for starting TensorFlow and tracing, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[1]
CPUS = ("distribute=mirrored", "distribute.devices=[CPU:0,CPU:1]")


def start_worker(file, *overrides, tf_config=None):
    environment = os.environ if tf_config is None else os.environ | {"TF_CONFIG": json.dumps(tf_config)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.replicas", str(file), *overrides], cwd=ROOT, env=environment
    )


def told_by(processes, files):
    assert [process.wait(900) for process in processes] == [0] * len(processes)
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """What the process with two replicas tells, in a list of one."""
    file = tmp_path_factory.mktemp("mirrored") / "told.json"
    return told_by([start_worker(file, *CPUS)], [file])


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What each of two workers tells."""
    files = [tmp_path_factory.mktemp("workers") / "told.json" for _ in range(2)]
    cluster = {"worker": free_addresses(2)}
    processes = [
        start_worker(
            file,
            "distribute=multi_worker",
            tf_config={"cluster": cluster, "task": {"type": "worker", "index": index}},
        )
        for index, file in enumerate(files)
    ]
    return told_by(processes, files)


@pytest.fixture(scope="module")
def alone():
    """What one device makes of a case of two replicas, each with one micro-batch for each of theirs."""
    done = {}

    def told(name):
        if name not in done:
            case = (OF_ONE_MACHINE | OF_SEVERAL)[name]
            # Only dropout tells apart how a batch is divided.
            done[name] = trained(
                replace(case, accumulation_steps=2) if "dropout" in name else case, ONE_DEVICE
            )
        return done[name]

    return told


@pytest.fixture(params=["mirrored", "workers"])
def told(request):
    return request.getfixturevalue(request.param)


def assert_same_curve(actual, expected, rtol=1e-5):
    for key in ("losses", "norms"):
        np.testing.assert_allclose(actual[key], expected[key], rtol=rtol)


@pytest.mark.parametrize("name", CURVES)
def test_two_replicas_train_as_one_device(told, alone, name):
    """Over 20 steps, with every gradient clipped, in two micro-batches a replica."""
    expected = alone(name)
    assert min(expected["norms"]) > 0.3  # what they are clipped to
    for one in told:
        assert_same_curve(one[name], expected)
        for weight, wanted in zip(one[name]["weights"], expected["weights"], strict=True):
            np.testing.assert_allclose(weight, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CURVES)
def test_the_replicas_read_the_batches_of_one_device(told, alone, name):
    """The SHA-256 of each row: those of worker 0, then those of worker 1, are those of the batch."""
    read = [list(chain(*rows)) for rows in zip(*(one[name]["read"] for one in told), strict=True)]
    assert read == alone(name)["read"]
    assert len(set(read[0])) == BATCH


@pytest.mark.parametrize("name", CURVES)
def test_an_evaluation_of_the_replicas_is_that_of_one_device(told, alone, name):
    """The last batch is not full."""
    for one in told:
        assert one[name]["measured"] == pytest.approx(alone(name)["measured"], rel=1e-5)


@pytest.mark.parametrize("name", sorted(OF_ONE_MACHINE.keys() - CURVES.keys()))
def test_replicas_of_one_machine_train_every_kind_of_model(mirrored, alone, name):
    assert_same_curve(mirrored[0][name], alone(name), rtol=2e-3 if "bfloat16" in name else 1e-5)


@pytest.mark.parametrize("name", sorted(OF_SEVERAL.keys() - CURVES.keys()))
def test_workers_train_every_kind_of_model(workers, alone, name):
    for one in workers:
        assert_same_curve(one[name], alone(name), rtol=2e-3 if "bfloat16" in name else 1e-5)


def test_dropout_without_as_many_parts_is_another(alone):
    case = OF_ONE_MACHINE["text learned dropout"]
    assert trained(case, ONE_DEVICE)["losses"] != pytest.approx(
        alone("text learned dropout")["losses"], rel=1e-4
    )


def test_replicas_and_workers_agree(told):
    for one in told:
        agreed = one["agreements"]
        assert agreed["rows"] == list(range(1, 1 + BATCH))
        assert agreed["from chief"] == ["ä", 0]
        assert agreed["copied"] == [3.0, 4.0]
        assert (agreed["nobody"], agreed["last"]) == (False, True)
        assert agreed["largest"] == 129 + len(told)


def test_a_replica_skips_what_another_cannot_apply(told):
    """A loss that is not finite on the rows of the last replica alone."""
    for one in told:
        assert not one["images"]["is changed by what is not finite"]


def test_the_replicas_stay_alike(mirrored):
    assert not any(of_case["copies differ"] for of_case in mirrored[0].values() if "losses" in of_case)


def test_workers_that_disagree_are_told_who_and_where(workers):
    for one in workers:
        assert one["agreements"]["other data"].startswith("RunError: worker 1 (127.0.0.1:")
        assert one["agreements"]["other data"].endswith(
            ") do not agree: data is b and a. Start all workers alike."
        )
    failures = [one["agreements"]["chief fails"] for one in workers]
    assert failures[0] == "ValueError: no luck\nat all"
    assert failures[1].startswith("RunError: worker 0 (127.0.0.1:")
    assert failures[1].endswith(") has stopped: ValueError: no luck")


@pytest.fixture(scope="module")
def place(workplace):
    """The command line of a tiny run on a text without dropout, whose every step is logged."""
    defaults = {"model.dropout": "0.0", "num_steps": "20", "checkpoint_every": "5", "log_every": "1"}
    defaults |= {"optimizer.clip_norm": "0.3", "sample_every": "20"}

    def arguments(*changes):
        changed = {change.partition("=")[0] for change in changes}
        return workplace.arguments(
            *changes, *(f"{key}={value}" for key, value in defaults.items() if key not in changed)
        )

    return workplace, arguments


@contextlib.contextmanager
def started_workers(place, *changes):
    """The launcher of two workers of train.py; they end with the context."""
    command = [sys.executable, "-m", "scripts.launch_local", "--workers", "2", "--"]
    arguments = place[1]("distribute=multi_worker", *changes)
    with subprocess.Popen(
        command + arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        try:
            yield launcher
        finally:
            launcher.terminate()  # what it has started, that is


def drop_after(run, step):
    """As if the run had been killed soon after that step."""
    for path in (run / "checkpoints").iterdir():
        if int(path.name[-8:]) > step:
            shutil.rmtree(path)
    (run / "summary.json").unlink()


def assert_ends_as(run, whole):
    for row, wanted in zip(rows_of(run), rows_of(whole), strict=True):
        # A sample may tip over at a rounding.
        numbers, expected = ({key: row[key] for key in row if key != "sample"} for row in (row, wanted))
        assert numbers == pytest.approx(expected, rel=1e-5), f"step {wanted['step']}"
    actual, expected = tensors_of(run), tensors_of(whole)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def whole(place):
    """The directory of a run on one device that nothing interrupted."""
    workplace, arguments = place
    assert workplace.train(*arguments("name=alone")) == 0
    return workplace.outputs / "alone"


@pytest.fixture(scope="module")
def killed(place):
    """The directory of a run of two workers, one of which was killed; and what it told."""
    run = place[0].outputs / "workers"
    with started_workers(place, "name=workers", "checkpoint_every=1") as launcher:
        wait_for(run / "checkpoints" / "step-00000003", launcher)
        # The launcher starts them in order.
        children = sorted(psutil.Process(launcher.pid).children(), key=psutil.Process.create_time)
        children[1].kill()
        output, _ = launcher.communicate(timeout=900)
    return run, launcher.returncode, output


def test_a_worker_that_dies_ends_the_others_with_a_line_that_names_it(killed):
    run, exit_code, output = killed
    assert exit_code == 137
    assert not (run / "summary.json").exists()
    (line,) = [line for line in output.splitlines() if line.startswith("[worker 0] error: ")]
    assert line.startswith("[worker 0] error: worker 1 (127.0.0.1:")
    assert line.endswith(
        ") has ended, and the others cannot go on without it. "
        "Start all again: the run goes on from its latest checkpoint."
    )


@pytest.fixture(scope="module")
def restarted(place, killed):
    """That run, started again and ended; and what it told."""
    with started_workers(place, "name=workers") as launcher:
        output, _ = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, output
    return killed[0], output


def test_a_run_with_a_killed_worker_ends_as_one_that_nothing_interrupted(restarted, whole):
    run, output = restarted
    assert "[worker 0] resuming after step " in output
    assert_ends_as(run, whole)


def test_the_chief_alone_tells_and_writes(restarted):
    run, output = restarted
    assert [line for line in output.splitlines() if "waiting for" not in line and "[worker 1]" in line] == []
    assert output.count("measuring all held-out text") == 1
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "loss.png",
        "metrics.jsonl",
        "samples.txt",
        "summary.json",
        "tensorboard",
    }


def test_a_run_goes_on_from_two_replicas_on_one_device_and_back(place, restarted, whole):
    workplace, arguments = place
    run = copy_of(restarted[0], "moved")
    drop_after(run, 10)
    assert workplace.train(*arguments(f"name={run.name}")) == 0
    assert_ends_as(run, whole)
    drop_after(run, 15)
    command = [sys.executable, "train.py", *arguments(f"name={run.name}", *CPUS)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    assert_ends_as(run, whole)


def test_a_batch_that_does_not_divide_is_refused_with_the_sizes_that_do():
    class Four:
        num_replicas_in_sync = 4

    distribution = Distribution(Four())
    distribution.check_batch(16, 2)
    with pytest.raises(RunError, match=r"batch_size 12 does not divide .* 4 replicas .* use 8 or 16$"):
        distribution.check_batch(12, 2)
    with pytest.raises(RunError, match=r"batch_size 3 does not divide .* 4 replicas .* use 4$"):
        distribution.check_batch(3, 1)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_mirrored_without_a_gpu_says_what_to_do(workplace, capsys):
    assert refusal(workplace, capsys, "name=none", "distribute=mirrored") == [
        "distribute=mirrored finds no GPU on this machine. To try it on the processor, set "
        "distribute.devices=[CPU:0,CPU:1]; to train on one device, distribute=none"
    ]
    assert refusal(workplace, capsys, "name=none", "distribute=mirrored", "distribute.devices=[GPU:3]") == [
        "distribute.devices: no GPU:3 here; there is no GPU"
    ]


@pytest.mark.parametrize(
    ("cluster", "problem"),
    [
        ({"chief": ["a:1", "b:1"]}, "TF_CONFIG names 2 chiefs, expected one: a:1, b:1"),
        ({"worker": ["a"]}, 'TF_CONFIG cluster.worker must be a list of host:port, got ["a"]'),
    ],
)
def test_a_mistake_in_tf_config_ends_a_run_before_it_begins(workplace, capsys, monkeypatch, cluster, problem):
    task = {"type": "chief", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert refusal(workplace, capsys, "name=none", "distribute=multi_worker") == [problem]


def test_a_port_in_use_ends_a_run_before_it_begins(workplace, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        cluster = {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        (line,) = refusal(workplace, capsys, "name=none", "distribute=multi_worker")
    assert line == (
        f"cannot listen at {address}, which TF_CONFIG gives to this process (Address already in use): is it "
        "running already, or another one with the same type and index?"
    )
