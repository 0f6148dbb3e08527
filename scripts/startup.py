"""Importing TensorFlow without its chatter, and finding the devices of a run."""

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from configs.schema import Config
from training.cluster import meet, read_cluster

T = TypeVar("T")


@contextlib.contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Sends what native code writes to standard error nowhere; Python's exceptions still pass."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def import_tensorflow(before_devices: Callable[[], T] = lambda: None) -> T:
    """Imports TensorFlow and finds its devices: both write lines that no log level turns off.

    Args:
        before_devices: called in between, for what is too late afterwards; what it returns is returned.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quiet_standard_error():
        import_for_good()
        import tensorflow as tf

        made = before_devices()
        tf.config.list_logical_devices()
    return made


def import_for_good() -> None:
    """Imports TensorFlow and Keras; what that makes is passed by from then on when garbage is collected.

    It is 400,000 objects: to look through them takes a second of the import and two of the exit.
    """
    if "keras" in sys.modules:
        return  # to freeze again would keep the garbage of all that has run since
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in ("keras", "tensorflow"):
            importlib.import_module(name)
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def find_devices(config: Config):
    """Imports TensorFlow, and finds the devices of a run and its other workers; a `Distribution`.

    Raises:
        RunError: if TF_CONFIG or a device is not right, or the batch does not divide among the replicas.
    """
    cluster = None
    if config.distribute.strategy == "multi_worker":
        cluster = read_cluster(os.environ)
        meet(cluster)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of a lost worker, it tells in many lines

    def make():
        from training.distribution import make_distribution

        return make_distribution(config.distribute, cluster)

    distribution = import_tensorflow(make)
    if cluster is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow has taken it, and does nothing about it
    distribution.check_batch(config.training.batch_size, config.training.accumulation_steps)
    return distribution
