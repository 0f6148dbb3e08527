"""The replicas of a model on several devices or machines, and what they must agree on.

The engine is `tf.distribute`: each replica has all weights, and a part of each batch.
"""

import contextlib
import json
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from system.errors import LostWorkerError, RunError
from training.cluster import Cluster
from training.config import DistributeConfig

LOST_PEER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class Distribution:
    """How a run is spread over devices; without a strategy, it is on one.

    A batch is divided in equal parts, in its order, among the workers, and a worker's among its replicas.
    Worker 0, the chief, alone reads and writes the directory of the run; no file system need be shared.

    Args:
        strategy: of `tf.distribute`; None for one device, which then costs nothing.
        cluster: the workers, where there are several processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, cluster: Cluster | None = None):
        self.strategy, self.cluster = strategy, cluster
        self.num_replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        self.num_workers = 1 if cluster is None else len(cluster)
        self.worker = 0 if cluster is None else cluster.own
        self.is_chief = self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Inside it, variables are made on every replica."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def check_batch(self, batch_size: int, accumulation_steps: int) -> None:
        """Raises RunError if a batch cannot be divided in equal parts."""
        parts = self.num_replicas * accumulation_steps
        if batch_size % parts:
            below = batch_size // parts * parts
            sizes = " or ".join(str(size) for size in (below, below + parts) if size)
            raise RunError(
                f"batch_size {batch_size} does not divide among {self.num_replicas} replicas in "
                f"{accumulation_steps} accumulation_steps: use {sizes}"
            )

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch that this worker reads."""
        share = batch_size // self.num_workers
        return slice(self.worker * share, (self.worker + 1) * share)

    def on_replicas(self, function: Callable) -> Callable:
        """`function(*rows, **shared)` on every replica, with its part of this worker's rows.

        Args:
            function: called in a replica context.

        Returns:
            A graph function of the same arguments, which gives what the first replica here gave.
        """
        replicas_here = self.num_replicas // self.num_workers

        @tf.function
        def everywhere(parts, shared):
            results = self.strategy.run(function, parts, shared)
            return tf.nest.map_structure(
                lambda result: self.strategy.experimental_local_results(result)[0], results
            )

        def part_of(rows):
            parts = tf.split(rows, replicas_here)
            first = self.worker * replicas_here
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: parts[context.replica_id_in_sync_group - first]
            )

        return lambda *rows, **shared: everywhere(tuple(map(part_of, rows)), shared)

    def from_chief(self, make: Callable[[], object]) -> object:
        """What `make` gives the chief, a value that JSON can hold; it is called there alone.

        Raises:
            RunError: on the other workers, if `make` raised anything on the chief.
        """
        if self.num_workers == 1:
            return make()
        told, failure = {}, None
        if self.is_chief:
            try:
                told = {"value": make()}
            except Exception as error:
                told, failure = {"error": f"{type(error).__name__}: {error}"}, error
        told = json.loads(self._gathered(json.dumps(told).encode())[0])
        if failure is not None:
            raise failure
        if "error" in told:
            raise RunError(f"{self.cluster.name(0)} has stopped: {told['error'].splitlines()[0]}")
        return told["value"]

    def check_same(self, facts: dict[str, object]) -> None:
        """Raises RunError on every worker if one has other facts than the chief; it names both."""
        if self.num_workers == 1:
            return
        chief, *others = map(json.loads, self._gathered(json.dumps(facts).encode()))
        for number, other in enumerate(others, start=1):
            differing = [key for key in chief | other if chief.get(key) != other.get(key)]
            if differing:
                key = differing[0]
                raise RunError(
                    f"{self.cluster.name(number)} and {self.cluster.name(0)} do not agree: {key} is "
                    f"{other.get(key)} and {chief.get(key)}. Start all workers alike."
                )

    def copy_from_chief(self, variables: list[keras.Variable]) -> None:
        """Gives the variables of every worker the chief's values."""
        if self.num_workers == 1:
            return
        for variable in variables:
            value = variable.numpy() if self.is_chief else np.zeros(variable.shape, variable.dtype)
            variable.assign(self._summed(value))

    def chief_only(self, function: Callable) -> Callable:
        """`function` on the chief; elsewhere one that does nothing, and gives an empty dictionary."""
        return function if self.is_chief else lambda *_: {}

    def largest(self, number: int) -> int:
        """The largest of the numbers of all workers."""
        if self.num_workers == 1:
            return number
        numbers = np.zeros(self.num_workers, np.int32)
        numbers[self.worker] = number
        return int(self._summed(numbers).max())

    def any(self, flag: bool) -> bool:
        """Whether the flag of any worker is set."""
        return bool(self.largest(int(flag)))

    def wait(self) -> None:
        """Until every worker is here: one that ends while others work takes them with it."""
        self.any(False)

    @contextlib.contextmanager
    def lost_workers_named(self) -> Iterator[None]:
        """Inside it, LostWorkerError tells of a worker that has died, in place of an error of TensorFlow."""
        try:
            yield
        except LOST_PEER as error:
            if self.num_workers == 1:
                raise
            lost = self.cluster.named_in(str(error))
            names = ", ".join(map(self.cluster.name, lost)) or "a worker"
            raise LostWorkerError(
                f"{names} has ended, and the others cannot go on without it. "
                "Start all again: the run goes on from its latest checkpoint."
            ) from error

    def _gathered(self, message: bytes) -> list[bytes]:
        """The message of each worker."""
        lengths = np.zeros(self.num_workers, np.int32)
        lengths[self.worker] = len(message)
        lengths = self._summed(lengths)
        letters = np.zeros((self.num_workers, lengths.max()), np.int32)
        letters[self.worker, : len(message)] = list(message)
        rows = self._summed(letters).astype(np.uint8)
        return [bytes(row[:length]) for row, length in zip(rows, lengths, strict=True)]

    def _summed(self, value: np.ndarray) -> np.ndarray:
        """The sum of one value of each worker; of those of its replicas, the first one gives it."""
        first = self.worker * (self.num_replicas // self.num_workers)
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                value if context.replica_id_in_sync_group == first else np.zeros_like(value)
            )
        )
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


ONE_DEVICE = Distribution()


def make_distribution(config: DistributeConfig, cluster: Cluster | None) -> Distribution:
    """Finds the devices, and with a cluster waits for its other workers; TensorFlow must not have begun.

    Raises:
        RunError: if a device is not there.
    """
    if config.strategy == "none":
        return ONE_DEVICE
    if config.strategy == "multi_worker":
        return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), cluster)
    if config.strategy == "mirrored":
        return Distribution(tf.distribute.MirroredStrategy(list(find_devices(config.devices))))
    raise ValueError(f"unknown strategy {config.strategy!r}")


def find_devices(wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """All GPUs, or what is wanted; of processors there are as many as one likes."""
    gpus = tuple(f"GPU:{index}" for index in range(len(tf.config.list_physical_devices("GPU"))))
    if wanted is None and not gpus:
        raise RunError(
            "distribute=mirrored finds no GPU on this machine. To try it on the processor, set "
            "distribute.devices=[CPU:0,CPU:1]; to train on one device, distribute=none"
        )
    wanted = wanted or gpus
    if wanted[0].startswith("CPU"):
        (processor,) = tf.config.list_physical_devices("CPU")
        count = 1 + max(int(device.partition(":")[2]) for device in wanted)
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    elif missing := [device for device in wanted if device not in gpus]:
        raise RunError(
            f"distribute.devices: no {', '.join(missing)} here; there is {', '.join(gpus) or 'no GPU'}"
        )
    return wanted


def all_reduced(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """The sum of each float32 tensor over all replicas, by one collective operation; in a replica context."""
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
    flat = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
