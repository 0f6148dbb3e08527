"""The import of TensorFlow and the garbage collector, in a separate process."""

import os
import subprocess
import sys

import pytest

from system.startup import quiet_imports

PROGRAM = """
import gc, sys
from system.startup import quiet_imports
before = len(gc.get_objects())
{before}
with quiet_imports():
    import tensorflow, keras
print(gc.isenabled(), gc.get_freeze_count() > 10 * before, len(gc.get_objects()) < before)
later = []
with quiet_imports():
    import tensorflow
print(any(thing is later for thing in gc.get_objects()), "keras" in sys.modules)
"""


def output_of(before):
    program = PROGRAM.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_objects_of_tensorflow_are_frozen_once():
    assert output_of("") == ["True True True", "True True"]


@pytest.mark.slow
def test_a_disabled_garbage_collector_stays_disabled():
    assert output_of("gc.disable()")[0] == "False True True"


def test_several_workers_silence_what_tensorflow_prints_of_a_lost_one(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for config, level in ((None, "2"), ("{}", "3")):
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
        monkeypatch.delitem(sys.modules, "keras", raising=False)
        if config is not None:
            monkeypatch.setenv("TF_CONFIG", config)
        with quiet_imports():
            assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == level
