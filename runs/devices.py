"""Importing TensorFlow without its chatter, and finding the devices of a run."""

import os
import signal
from collections.abc import Callable
from typing import TypeVar

from configs.schema import Config
from system.startup import quiet_imports
from training.cluster import meet, read_cluster

T = TypeVar("T")


def import_tensorflow(before_devices: Callable[[], T] = lambda: None) -> T:
    """Imports TensorFlow and finds its devices: both write lines that no log level turns off.

    Args:
        before_devices: called in between, for what is too late afterwards; what it returns is returned.
    """
    with quiet_imports():
        import keras  # noqa: F401
        import tensorflow as tf

        made = before_devices()
        tf.config.list_logical_devices()
    return made


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
    distribution.check_batch(config.batch_size, config.accumulation_steps)
    return distribution
