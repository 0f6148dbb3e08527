"""Runs on several replicas and workers, each strategy in processes of its own, against one device."""

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
from tests.comparison import rows_of, tensors_of
from tests.replicas import BATCH, CURVES, MIRRORED, WORKERS, train
from tests.run_helpers import copy_of, refusal, wait_for
from training.replicas import ONE_DEVICE

# Most of the time is spent starting TensorFlow and tracing, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[1]
CPUS = ("distribute=mirrored", "distribute.devices=[CPU:0,CPU:1]")


def start_process(file, *overrides, tf_config=None):
    environment = os.environ if tf_config is None else os.environ | {"TF_CONFIG": json.dumps(tf_config)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.replicas", str(file), *overrides], cwd=ROOT, env=environment
    )


def results_of(processes, files):
    assert [process.wait(900) for process in processes] == [0] * len(processes)
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """Results of the process with two replicas, in a list of one."""
    file = tmp_path_factory.mktemp("mirrored") / "results.json"
    return results_of([start_process(file, *CPUS)], [file])


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Results of each of two workers."""
    files = [tmp_path_factory.mktemp("workers") / "results.json" for _ in range(2)]
    cluster = {"worker": free_addresses(2)}
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    processes = [
        start_process(file, "distribute=multi_worker", tf_config={"cluster": cluster, "task": task})
        for file, task in zip(files, tasks, strict=True)
    ]
    return results_of(processes, files)


@pytest.fixture(scope="module")
def one_device():
    """Function from a case of two replicas to its results on one device."""
    results = {}

    def train_once(name):
        if name not in results:
            case = (MIRRORED | WORKERS)[name]
            # Dropout depends on the number of micro-batches.
            results[name] = train(
                replace(case, accumulation_steps=2) if "dropout" in name else case, ONE_DEVICE
            )
        return results[name]

    return train_once


def assert_same_curve(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(actual["losses"], expected["losses"], rtol=rtol)
    # The rounding of earlier updates changes a gradient more than the loss.
    np.testing.assert_allclose(actual["norms"], expected["norms"], rtol=3 * rtol)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["mirrored", "workers"])
def test_two_replicas_train_as_one_device(request, one_device, processes):
    """Over 20 steps, with clipped gradients, in two micro-batches a replica."""
    results = request.getfixturevalue(processes)
    for name in CURVES:
        expected = one_device(name)
        assert min(expected["norms"]) > 0.3  # the limit
        for result in results:
            assert_same_curve(result[name], expected)
            for weight, other in zip(result[name]["weights"], expected["weights"], strict=True):
                # Where a gradient is near 0, Adam turns its rounding into a part of a step, 0.01.
                np.testing.assert_allclose(weight, other, rtol=0, atol=3e-5)
            assert result[name]["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
            assert result[name]["a step that is not finite is skipped"]
        hashes = [list(chain(*rows)) for rows in zip(*(r[name]["row hashes"] for r in results), strict=True)]
        assert hashes == expected["row hashes"]
        assert len(set(hashes[0])) == BATCH
    for name in sorted((MIRRORED if processes == "mirrored" else WORKERS).keys() - CURVES.keys()):
        for result in results:
            assert_same_curve(result[name], one_device(name), rtol=2e-3 if "bfloat16" in name else 1e-5)


@pytest.mark.slow
def test_the_weights_of_replicas_stay_equal(mirrored):
    assert not any(result["copies differ"] for result in mirrored[0].values() if "losses" in result)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["mirrored", "workers"])
def test_replicas_and_workers_exchange_values(request, processes):
    results = [result["communication"] for result in request.getfixturevalue(processes)]
    for result in results:
        assert result["rows"] == list(range(1, 1 + BATCH))
        assert result["from chief"][:2] == ["ä", 0]
        assert result["copied"] == [3.0, 4.0]
        assert (result["any of none"], result["any of the last"]) == (False, True)
        assert result["largest"] == 129 + len(results)
    if processes == "workers":
        for result in results:
            assert result["different data"].startswith("RunError: worker 1 (127.0.0.1:")
            assert "differ: data is b and a. Start all " in result["different data"]
        failures = [result["failure of the chief"] for result in results]
        assert failures[0] == "ValueError: no luck\nat all"
        assert failures[1].startswith("RunError: worker 0 (127.0.0.1:")
        assert failures[1].endswith(") has failed: ValueError: no luck")


@pytest.fixture(scope="module")
def place(workplace):
    """Workplace, and arguments of a tiny run on a text without dropout that logs every step."""
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
    """Launcher of two workers of train.py, which end with the context."""
    command = [sys.executable, "-m", "scripts.launch_local", "--workers", "2", "--"]
    arguments = place[1]("distribute=multi_worker", *changes)
    with subprocess.Popen(
        command + arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        try:
            yield launcher
        finally:
            launcher.terminate()  # and so its workers


def drop_after(run, step):
    """Removes what a run that was killed after that step would not have written."""
    for path in (run / "checkpoints").iterdir():
        if int(path.name[-8:]) > step:
            shutil.rmtree(path)
    (run / "summary.json").unlink()


def assert_ends_as(run, whole):
    for row, wanted in zip(rows_of(run), rows_of(whole), strict=True):
        # A rounding error may change a sample.
        numbers, expected = ({key: row[key] for key in row if key != "sample"} for row in (row, wanted))
        assert numbers == pytest.approx(expected, rel=1e-5), f"step {wanted['step']}"
    actual, expected = tensors_of(run), tensors_of(whole)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def whole(place):
    """Directory of an uninterrupted run on one device."""
    workplace, arguments = place
    assert workplace.train(*arguments("name=alone")) == 0
    return workplace.outputs / "alone"


@pytest.fixture(scope="module")
def killed(place):
    """Directory, exit code and output of a run of two workers, one of which was killed."""
    run = place[0].outputs / "workers"
    with started_workers(place, "name=workers", "checkpoint_every=1") as launcher:
        wait_for(run / "checkpoints" / "step-00000003", launcher)
        # The launcher starts them in order.
        children = sorted(psutil.Process(launcher.pid).children(), key=psutil.Process.create_time)
        children[1].kill()
        output, _ = launcher.communicate(timeout=900)
    return run, launcher.returncode, output


@pytest.mark.slow
def test_the_death_of_a_worker_ends_the_others_with_one_line_that_names_it(killed):
    run, exit_code, output = killed
    assert exit_code == 137
    assert not (run / "summary.json").exists()
    (line,) = [line for line in output.splitlines() if line.startswith("[worker 0] error: ")]
    assert line.startswith("[worker 0] error: worker 1 (127.0.0.1:")
    assert line.endswith(
        ") has ended, and the other workers cannot continue without it. "
        "Start all workers again to resume from the latest checkpoint."
    )


@pytest.fixture(scope="module")
def restarted(place, killed):
    """Directory and output of that run after it was started again."""
    with started_workers(place, "name=workers") as launcher:
        output, _ = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, output
    return killed[0], output


@pytest.mark.slow
def test_a_run_with_a_killed_worker_resumes_and_ends_as_an_uninterrupted_one(restarted, whole):
    run, output = restarted
    assert ", resuming after step " in output
    assert_ends_as(run, whole)


@pytest.mark.slow
def test_only_the_chief_logs_and_writes(restarted):
    run, output = restarted
    assert [line for line in output.splitlines() if "waiting for" not in line and "[worker 1]" in line] == []
    assert output.count("evaluating on all held-out data") == 1
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


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_replicas(place, restarted, whole):
    workplace, arguments = place
    run = copy_of(restarted[0], "moved")
    drop_after(run, 10)
    assert workplace.train(*arguments(f"name={run.name}")) == 0
    assert_ends_as(run, whole)
    drop_after(run, 15)
    command = [sys.executable, "train.py", *arguments(f"name={run.name}", *CPUS)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    assert_ends_as(run, whole)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_mirrored_without_a_gpu_is_refused_with_advice(workplace, capsys):
    assert refusal(workplace, capsys, "name=none", "distribute=mirrored") == [
        "distribute=mirrored needs a GPU, and this machine has none. To try it on the CPU, set "
        "distribute.devices=[CPU:0,CPU:1]; to train on one device, distribute=none"
    ]
    assert refusal(workplace, capsys, "name=none", "distribute=mirrored", "distribute.devices=[GPU:3]") == [
        "distribute.devices: GPU:3 not found; available: no GPU"
    ]


def test_an_invalid_tf_config_is_refused_before_the_run_starts(workplace, capsys, monkeypatch):
    config = {"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    (line,) = refusal(workplace, capsys, "name=none", "distribute=multi_worker")
    assert line.startswith(
        "TF_CONFIG cluster must be lists of host:port for worker and, optionally, chief, got "
    )


def test_a_port_in_use_is_refused_before_the_run_starts(workplace, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        cluster = {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        (line,) = refusal(workplace, capsys, "name=none", "distribute=multi_worker")
    assert line == (
        f"cannot listen at {address}, the address of this process in TF_CONFIG (Address already in use). Is "
        "another process with the same task running?"
    )
