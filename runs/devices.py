"""Importing TensorFlow without its chatter, and finding the devices of a run."""

import os
import signal
from collections.abc import Callable
from typing import TypeVar

from configs.schema import Config
from system.startup import quiet_imports

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
    """Imports TensorFlow and returns the `Replicas` of a run, after its other workers have started.

    Raises:
        RunError: if TF_CONFIG or a device is invalid, or the batch cannot be divided among the replicas.
    """
    if config.distribute.strategy == "none":
        import_tensorflow()
        from training.replicas import ONE_DEVICE

        return ONE_DEVICE
    return find_several_devices(config)


def find_several_devices(config: Config):
    from training.cluster import meet, read_cluster

    cluster = None
    if config.distribute.strategy == "multi_worker":
        cluster = read_cluster(os.environ)
        meet(cluster)
        # TensorFlow reports a lost worker in many lines.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def make():
        from training.multi_device import make_replicas

        return make_replicas(config.distribute, cluster)

    replicas = import_tensorflow(make)
    if cluster is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow has installed a handler that ignores it
    replicas.check_batch(config.batch_size, config.accumulation_steps)
    return replicas
