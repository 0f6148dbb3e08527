"""Interface to the replicas of a run, and the single replica of a run on one device."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

import keras
import tensorflow as tf

T = TypeVar("T")


class Replicas:
    """The single replica of a run on one device; `training.multi_device` has subclasses for several.

    Each replica holds all weights and processes an equal part of each batch.
    """

    strategy: tf.distribute.Strategy | None = None
    num_replicas = 1  # in all processes
    num_workers = 1  # number of processes
    worker = 0  # index of this process; 0 is the chief
    is_chief = True

    def scope(self) -> contextlib.AbstractContextManager:
        """Context in which variables are created on every replica."""
        return contextlib.nullcontext()

    def rows(self, batch_size: int) -> slice:
        """Rows of a batch that this process reads."""
        return slice(0, batch_size)

    def on_chief(self, make: Callable[[], T]) -> T:
        """Returns `make()` on the chief, and a stand-in whose calls do nothing on other workers."""
        return make()

    def from_chief(
        self,
        make: Callable[[], T],
        *,
        encode: Callable[[T], object] = lambda value: value,
        decode: Callable[[object], T] = lambda value: value,
    ) -> T:
        """Calls `make` on the chief and returns its value, sent as JSON values, or raises its error."""
        return make()

    def copy_from_chief(self, variables: list[keras.Variable]) -> None:
        """Copies the chief's values of the variables to every worker."""

    def check_same(self, facts: dict[str, object]) -> None:
        """Raises RunError on every worker if `facts` (JSON values) of any worker differ from the chief's."""

    def largest(self, number: int) -> int:
        """Largest of the numbers of all workers."""
        return number

    def any(self, flag: bool) -> bool:
        return bool(self.largest(int(flag)))

    def wait(self) -> None:
        """Waits for all workers; a worker that ends early makes the others fail."""
        self.any(False)

    def naming_lost_workers(self) -> contextlib.AbstractContextManager:
        """Context in which the loss of another worker raises LostWorkerError with its name."""
        return contextlib.nullcontext()


ONE_DEVICE = Replicas()


def all_reduced(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sum of each float32 tensor over all replicas, in one collective operation; for a replica context."""
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)  # (all elements,)
    flat = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, flat)
    parts = tf.split(flat, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
