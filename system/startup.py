"""Importing TensorFlow without its messages."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Silences what native code prints while TensorFlow is imported inside, and speeds the import up.

    The import creates about 400,000 objects. Without a pause of the garbage collector and `gc.freeze`,
    traversing them costs a second here and two at exit.
    """
    if "keras" in sys.modules:  # a second gc.freeze would keep the garbage of everything in between
        yield
        return
    # Several workers: TensorFlow reports the loss of one in many lines at level 2.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if "TF_CONFIG" in os.environ else "2")
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with silenced_standard_error():
            yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def silenced_standard_error() -> Iterator[None]:
    """Redirects file descriptor 2 to the null device; Python exceptions still propagate."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
