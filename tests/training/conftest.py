import sys

import pytest

from tests.training.checkpoint_runs import Run


def pytest_collection_finish(session):
    """Divides the CPU into two devices for tests of replicas, before TensorFlow is initialized."""
    if "tensorflow" in sys.modules and not session.config.option.collectonly:
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def messages():
    return []
