"""Replicas on several devices or hosts, with `tf.distribute`."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from system.command import silenced_standard_error
from system.errors import LostWorkerError, RunError
from training.cluster import Cluster, read_cluster, wait_for_processes
from training.config import DistributeConfig
from training.replicas import Replicas

# Errors that collective operations raise when another worker has ended.
LOST_PEER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class MultiDevice(Replicas):
    """Replicas on several devices of this host; a batch is divided among them into equal parts, in order."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync

    def scope(self) -> contextlib.AbstractContextManager:
        return self.strategy.scope()

    def check_batch(self, batch_size: int, accumulation_steps: int) -> None:
        parts = self.num_replicas * accumulation_steps
        if batch_size % parts:
            below = batch_size // parts * parts
            sizes = " or ".join(str(size) for size in (below, below + parts) if size)
            raise RunError(
                f"batch_size {batch_size} must be divisible by {self.num_replicas} replicas times "
                f"accumulation_steps {accumulation_steps}: use {sizes}"
            )

    def compile(self, function: Callable) -> Callable:
        """Graph function of the rows of this worker: `function(*part, **shared)` of its first replica."""
        strategy = self.strategy

        @tf.function
        def call_on_replicas(parts, shared):
            results = strategy.run(function, parts, shared)
            return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], results)

        def distribute(rows):
            parts = tf.split(rows, self.num_replicas // self.num_workers)
            return self._values(lambda local_replica: parts[local_replica])

        return lambda *rows, **shared: call_on_replicas(tuple(map(distribute, rows)), shared)

    def _values(self, value_of: Callable[[int], tf.Tensor]):
        """One value for each replica of this worker, given its index among them."""
        first = self.worker * (self.num_replicas // self.num_workers)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: value_of(context.replica_id_in_sync_group - first)
        )


class MultiWorker(MultiDevice):
    """Replicas in several processes, among which a batch is divided into equal parts, in order.

    Worker 0, the chief, alone reads and writes the run directory.
    """

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster):
        super().__init__(strategy)
        self.cluster, self.num_workers, self.worker = cluster, len(cluster), cluster.own
        self.is_chief = self.worker == 0

    def rows(self, batch_size: int) -> slice:
        share = batch_size // self.num_workers
        return slice(self.worker * share, (self.worker + 1) * share)

    def on_chief(self, make):
        return make() if self.is_chief else Silent()

    def from_chief(self, make, *, encode=lambda value: value, decode=lambda value: value):
        if self.is_chief:
            try:
                value = make()
                message = {"value": encode(value)}
            except Exception as error:
                self._gather({"error": f"{type(error).__name__}: {error}"})
                raise
            self._gather(message)
            return value
        message = self._gather({})[0]
        if "error" in message:
            raise RunError(f"{self.cluster.name(0)} has failed: {message['error'].splitlines()[0]}")
        return decode(message["value"])

    def check_same(self, facts: dict[str, object]) -> None:
        chief, *others = self._gather(facts)
        for number, other in enumerate(others, start=1):
            for key in chief:
                if other.get(key) != chief[key]:
                    raise RunError(
                        f"{self.cluster.name(number)} and {self.cluster.name(0)} differ: {key} is "
                        f"{other.get(key)} and {chief[key]}. Start all with the same command and data."
                    )

    def copy_from_chief(self, variables: list[keras.Variable]) -> None:
        for variable in variables:
            value = variable.numpy() if self.is_chief else np.zeros(variable.shape, variable.dtype)
            variable.assign(self._sum(value))

    def largest(self, number: int) -> int:
        numbers = np.zeros(self.num_workers, np.int32)
        numbers[self.worker] = number
        return int(self._sum(numbers).max())

    @contextlib.contextmanager
    def naming_lost_workers(self) -> Iterator[None]:
        try:
            yield
        except LOST_PEER as error:
            names = ", ".join(map(self.cluster.name, self.cluster.named_in(str(error)))) or "a worker"
            raise LostWorkerError(
                f"{names} has ended, and the other workers cannot continue without it. "
                "Start all workers again to resume from the latest checkpoint."
            ) from error

    def _gather(self, message: dict) -> list[dict]:
        message = json.dumps(message).encode()
        lengths = np.zeros(self.num_workers, np.int32)
        lengths[self.worker] = len(message)
        lengths = self._sum(lengths)  # (workers,)
        rows = np.zeros((self.num_workers, lengths.max()), np.int32)
        rows[self.worker, : len(message)] = list(message)
        rows = self._sum(rows).astype(np.uint8)  # (workers, longest message)
        return [json.loads(bytes(row[:length])) for row, length in zip(rows, lengths, strict=True)]

    def _sum(self, value: np.ndarray) -> np.ndarray:
        """Sum of one array of each worker, which its first replica contributes."""
        zeros = np.zeros_like(value)
        values = self._values(lambda local_replica: tf.constant(zeros if local_replica else value))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


class Silent:
    """Stand-in for the log, the save function and the sampler on workers other than the chief."""

    def __call__(self, *args, **kwargs) -> dict:
        return {}

    step_took = write = say = __call__

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_) -> None:
        pass


def make_replicas(config: DistributeConfig) -> MultiDevice:
    """Replicas on the devices of `config`; called before any device is used. Waits for the other workers."""
    if config.strategy == "multi_worker":
        cluster = read_cluster(os.environ)
        wait_for_processes(cluster)
        with silenced_standard_error():
            replicas = MultiWorker(tf.distribute.MultiWorkerMirroredStrategy(), cluster)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow installs a handler that does nothing
        return replicas
    if config.strategy == "mirrored":
        with silenced_standard_error():
            return MultiDevice(tf.distribute.MirroredStrategy(device_names(config.devices)))
    raise ValueError(f"distribute.strategy must be mirrored or multi_worker, got {config.strategy!r}")


def device_names(devices: tuple[str, ...] | None) -> list[str]:
    """All GPUs, or `devices`; creates as many logical CPUs as they name."""
    gpus = [f"GPU:{index}" for index in range(len(tf.config.list_physical_devices("GPU")))]
    if devices is None and not gpus:
        raise RunError(
            "distribute=mirrored needs a GPU, and this machine has none. To try it on the CPU, set "
            "distribute.devices=[CPU:0,CPU:1]; to train on one device, distribute=none"
        )
    names = list(devices or gpus)
    if names[0].startswith("CPU"):
        (cpu,) = tf.config.list_physical_devices("CPU")
        count = 1 + max(int(name.partition(":")[2]) for name in names)
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    elif missing := [name for name in names if name not in gpus]:
        available = ", ".join(gpus) or "no GPU"
        raise RunError(f"distribute.devices: {', '.join(missing)} not found; available: {available}")
    return names
