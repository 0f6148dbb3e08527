import sys

import pytest

from tests.training.checkpoint_runs import Run


def pytest_collection_finish(session):
    """Divides the CPU into two devices for tests of replicas, before TensorFlow is initialized."""
    if "tensorflow" in sys.modules and not session.config.option.collectonly:
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        except RuntimeError as error:
            raise pytest.UsageError("a test module creates tensors when it is imported") from error


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)
