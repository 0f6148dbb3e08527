"""Two replicas in one process against one device, and the exchange of values between workers.

`tests/test_distribute.py` has runs of workers that are processes.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from system.errors import RunError
from tests.training.test_evaluation import VOCAB, Table, masked_batches
from tests.training.test_step import Classifier, Lookup, make_batch, make_examples, make_step
from training.cluster import Cluster
from training.config import OptimizerConfig
from training.evaluation import make_evaluator, summed_loss
from training.multi_device import MultiDevice, MultiWorker, device_names
from training.optimizer import make_optimizer
from training.replicas import ONE_DEVICE


@pytest.fixture(scope="module")
def two_replicas():
    return MultiDevice(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


@pytest.mark.parametrize(("name", "compile_mode"), [("adamw", "graph"), ("muon", "graph"), ("muon", "xla")])
def test_two_replicas_train_as_one_device(two_replicas, name, compile_mode):
    """Gradients are clipped. The last step has a NaN in the rows of one replica; both skip it."""
    results = []
    for replicas in (ONE_DEVICE, two_replicas):
        with replicas.scope():
            model = Classifier()
            config = OptimizerConfig(name=name, warmup_steps=0)
            optimizer = make_optimizer(config, model.trainable_variables, num_steps=9)
        step = make_step(model, optimizer, clip_norm=0.3, replicas=replicas, compile=compile_mode)
        steps = [step(number, *make_examples(number)) for number in range(3)]
        assert not step(3, *make_examples(3, last=np.nan)).finite
        assert optimizer.iterations.numpy() == 3
        for weight in model.weights if replicas.strategy else ():
            first, second = replicas.strategy.experimental_local_results(weight.value)
            np.testing.assert_array_equal(first, second)
        results.append(([float(x) for r in steps for x in (r.loss, r.gradient_norm)], model.get_weights()))
    (expected, expected_weights), (actual, weights) = results
    assert min(expected) > 0.3
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for weight, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-5)


def test_two_replicas_draw_the_dropout_of_twice_the_micro_batches(two_replicas):
    """The optimizer is AdamW."""
    results = {}
    for replicas, accumulation_steps in ((two_replicas, 1), (ONE_DEVICE, 2), (ONE_DEVICE, 1)):
        with replicas.scope():
            model = Lookup(dropout_rate=0.5)
            config = OptimizerConfig(warmup_steps=0)
            optimizer = make_optimizer(config, model.trainable_variables, num_steps=9)
        step = make_step(model, optimizer, accumulation_steps=accumulation_steps, replicas=replicas)
        losses = [float(step(number, *make_batch(number)).loss) for number in range(3)]
        results[replicas.num_replicas, accumulation_steps] = losses
    assert results[2, 1] == pytest.approx(results[1, 2], rel=1e-5)
    assert results[1, 1] != pytest.approx(results[1, 2], rel=1e-4)


def test_an_evaluation_by_two_replicas_is_that_of_one_device(two_replicas):
    """One replica has fewer targets than the other."""
    logits = np.random.default_rng(0).normal(size=(VOCAB, VOCAB))
    batches = list(masked_batches([6, 1, 4]))
    one_device, by_two = (
        make_evaluator(Table(logits), summed_loss, compile_mode="graph", replicas=replicas)(batches)
        for replicas in (ONE_DEVICE, two_replicas)
    )
    assert by_two == pytest.approx(one_device, rel=1e-6)


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


def exchange(worker):
    """Calls each method that exchanges values, on one of two workers."""
    variable = keras.Variable([3.0, 4.0] if worker.is_chief else [7.0, 8.0])
    worker.copy_from_chief([variable])
    np.testing.assert_array_equal(variable, [3.0, 4.0])
    value = worker.from_chief(lambda: ("ä", worker.worker), encode=list, decode=lambda value: [*value, "!"])
    assert value == (("ä", 0) if worker.is_chief else ["ä", 0, "!"])
    assert worker.on_chief(lambda: dict)() == {}
    assert not worker.any(False) and worker.any(not worker.is_chief)
    assert worker.largest(130 + worker.worker) == 131
    differ = r"^worker 1 \(two:2\) and worker 0 \(one:1\) differ: data is b and a. Start all "
    with pytest.raises(RunError, match=differ):
        worker.check_same({"data": "ab"[worker.worker]})
    failure = "no luck" if worker.is_chief else r"worker 0 \(one:1\) has failed: ValueError: no luck$"
    with pytest.raises(ValueError, match=failure):
        worker.from_chief(fail)


def fail():
    raise ValueError("no luck\nat all")


def test_workers_exchange_values():
    shared = [None, None], threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(exchange, (Worker(number, shared) for number in range(2))))


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
        with pytest.raises(RunError, match=r"this machine has none. To try it on the CPU, set distrib"):
            device_names(None)
    with pytest.raises(RunError, match=r"GPU:3 not found; available: (GPU:0, GPU:1|no GPU)$"):
        device_names(("GPU:1", "GPU:3") if gpus else ("GPU:3",))
