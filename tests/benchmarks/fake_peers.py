"""Contenders for the tests of the benchmarks, which need no TensorFlow."""

import os
import time

import numpy as np

from benchmarks.harness import Work


def sleeping(*, milliseconds, log=None, mark=None, count=1, **_):
    """Sleeps for `count` units at a time, and appends `mark` to the file `log` at each call."""

    def call():
        print("a library says something")
        if log is not None:
            with open(log, "a") as file:
                file.write(mark)
        time.sleep(count * milliseconds / 1e3)

    return Work(call, count)


def allocating(*, before, during, **_):
    weights = np.ones(before * 1_000_000, np.uint8)
    return Work(lambda: np.ones(during * 1_000_000, np.uint8).sum() + weights[0])


def missing(**_):
    import a_package_that_nobody_has

    return a_package_that_nobody_has


def broken(**_):
    raise RuntimeError("this contender is broken")


def dying(**_):
    calls = iter(range(2))
    return Work(lambda: next(calls, None) is None and os._exit(3))
