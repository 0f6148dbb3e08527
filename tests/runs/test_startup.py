"""What the import of TensorFlow leaves behind, in a process of its own."""

import subprocess
import sys

PROGRAM = """
import gc, sys
from runs.devices import import_tensorflow
before = len(gc.get_objects())
{before}
import_tensorflow()
print(gc.isenabled(), gc.get_freeze_count() > 10 * before, len(gc.get_objects()) < before)
made_since = []
import_tensorflow()
print(any(thing is made_since for thing in gc.get_objects()), "keras" in sys.modules)
"""


def printed(before):
    program = PROGRAM.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_what_tensorflow_makes_is_passed_by_when_garbage_is_collected():
    assert printed("") == ["True True True", "True True"]


def test_a_collection_that_was_off_stays_off():
    assert printed("gc.disable()")[0] == "False True True"
