"""Devices of a run."""

import os
import signal

from configs.schema import Config
from system.command import silenced_standard_error
from training.cluster import read_cluster, wait_for_processes
from training.hardware import initialize_devices
from training.multi_device import make_replicas
from training.replicas import ONE_DEVICE, Replicas


def find_replicas(config: Config) -> Replicas:
    """Replicas on the devices of `distribute`; waits for the other workers of a cluster.

    Raises:
        RunError: if TF_CONFIG or a device is wrong, or the batch cannot be divided among the replicas.
    """
    if config.distribute.strategy == "none":
        initialize_devices()
        return ONE_DEVICE
    cluster = None
    if config.distribute.strategy == "multi_worker":
        cluster = read_cluster(os.environ)
        wait_for_processes(cluster)
    with silenced_standard_error():
        replicas = make_replicas(config.distribute, cluster)
    if cluster is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow installs a handler that does nothing
    replicas.check_batch(config.batch_size, config.accumulation_steps)
    return replicas
