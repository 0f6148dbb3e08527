"""Two replicas in one process against one device, and the exchange of values between workers.

`tests/test_distribute.py` has the same on workers that are processes.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from system.errors import RunError
from tests.comparison import rows_of
from tests.replicas import BATCH, IMAGES, TEXT, Case, communicate, gather_rows, train
from tests.run_helpers import WITHOUT_SAMPLES
from training.cluster import Cluster
from training.multi_device import MultiDevice, MultiWorker, device_names
from training.replicas import ONE_DEVICE

CASES = {
    "text adamw dropout": Case(replace(TEXT, dropout=0.2), num_steps=3, evaluate=True),
    "images muon": Case(IMAGES, num_steps=3, optimizer="muon"),
}


@pytest.fixture(scope="module")
def two_replicas():
    return MultiDevice(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_train_as_one_device_with_twice_the_micro_batches(two_replicas, name):
    """Gradients are clipped. The last step has a NaN in the rows of one replica; both skip it."""
    case = CASES[name]
    expected = train(replace(case, accumulation_steps=2), ONE_DEVICE)
    actual = train(case, two_replicas)
    assert min(expected["norms"]) > 0.3  # the limit
    for key in ("losses", "norms"):
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-5)
    for weight, other in zip(actual["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-5)
    assert actual["row hashes"] == expected["row hashes"]
    assert actual["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)
    assert actual["a step that is not finite is skipped"]
    assert not actual["copies differ"]


def test_replicas_receive_the_rows_of_a_batch_in_order(two_replicas):
    assert gather_rows(two_replicas) == list(range(1, 1 + BATCH))


class Worker(MultiWorker):
    """A worker that is a thread; the threads add up arrays that they share."""

    def __init__(self, worker, shared):
        tasks = (("worker", 0, "one:1"), ("worker", 1, "two:2"))
        super().__init__(FakeStrategy(2), Cluster(tasks, worker))
        self.arrays, self.barrier = shared

    def _sum(self, value):
        self.arrays[self.worker] = value
        self.barrier.wait(20)
        total = self.arrays[0] + self.arrays[1]
        self.barrier.wait(20)
        return total


class FakeStrategy:
    def __init__(self, num_replicas):
        self.num_replicas_in_sync = num_replicas

    def scope(self):
        return tf.init_scope()


def test_workers_exchange_values(monkeypatch):
    monkeypatch.setattr("tests.replicas.gather_rows", lambda replicas: None)
    shared, results = ([None, None], threading.Barrier(2)), [None, None]

    def work(number):
        results[number] = communicate(Worker(number, shared))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result["from chief"] for result in results] == [("ä", 0), ["ä", 0, "decoded"]]
    for result in results:
        assert result["on chief"]
        assert (result["any of none"], result["any of the last"], result["largest"]) == (False, True, 131)
        assert result["different data"].startswith(
            "RunError: worker 1 (two:2) and worker 0 (one:1) differ: data is b and a. Start all "
        )
        assert result["copied"] == [3.0, 4.0]
    assert [result["failure of the chief"] for result in results] == [
        "ValueError: no luck\nat all",
        "RunError: worker 0 (one:1) has failed: ValueError: no luck",
    ]


def test_rows_are_divided_among_workers_and_batches_must_be_divisible():
    workers = [Worker(number, (None, None)) for number in range(2)]
    assert [worker.rows(6) for worker in workers] == [slice(0, 3), slice(3, 6)]
    assert ONE_DEVICE.rows(6) == slice(0, 6)
    four = MultiDevice(FakeStrategy(4))
    four.check_batch(16, 2)
    with pytest.raises(RunError, match=r"batch_size 12 must be divisible by 4 replicas .* use 8 or 16$"):
        four.check_batch(12, 2)
    with pytest.raises(RunError, match=r"batch_size 3 must be divisible by 4 replicas .* use 4$"):
        four.check_batch(3, 1)


@pytest.mark.parametrize("gpus", [0, 2])
def test_devices_are_all_gpus_or_those_named(monkeypatch, gpus):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"] * gpus)
    if gpus:
        assert device_names(None) == ["GPU:0", "GPU:1"]
        assert device_names(("GPU:1",)) == ["GPU:1"]
    else:
        with pytest.raises(
            RunError, match=r"this machine has none. To try it on the CPU, set distribute.dev"
        ):
            device_names(None)
    with pytest.raises(RunError, match=r"GPU:3 not found; available: (GPU:0, GPU:1|no GPU)$"):
        device_names(("GPU:1", "GPU:3") if gpus else ("GPU:3",))


def test_a_run_on_two_replicas_resumes_on_one_device(workplace):
    options = ("num_steps=2", "log_every=1", "model.dropout=0.0", WITHOUT_SAMPLES)
    two_cpus = ("distribute=mirrored", "distribute.devices=[CPU:0,CPU:1]")
    assert workplace.train(*options, "name=replicas", *two_cpus, "max_minutes=1e-9") == 75  # after one step
    assert workplace.train(*options, "name=replicas") == 0
    assert workplace.train(*options, "name=one-device") == 0
    rows, expected = (rows_of(workplace.outputs / name) for name in ("replicas", "one-device"))
    assert len(rows) == len(expected) == 2
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
