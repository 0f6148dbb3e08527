"""What the bits of a result depend on beside the command: versions of packages, processor, threads."""

import os
import platform

import keras
import numpy as np
import tensorflow as tf

from system.machine import processor_flags

# Those that kernels are chosen by.
KERNEL_FLAGS = ("amx", "avx", "f16c", "fma", "sse")
VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS")


def environment() -> dict:
    """Plain values by name. Where two agree, the same command gives the same bits on a CPU."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "processor": platform.machine(),
        "processor_flags": sorted(flag for flag in processor_flags() if flag.startswith(KERNEL_FLAGS)),
        "threads": threads(),
        "gpus": [details.get("device_name", "GPU") for details in gpus],
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def threads() -> int:
    """That an operation is shared among."""
    given = tf.config.threading.get_intra_op_parallelism_threads()
    if given or not hasattr(os, "sched_getaffinity"):
        return given or os.cpu_count()
    return len(os.sched_getaffinity(0))


def changes(recorded: dict, now: dict) -> str:
    """What differs, in words, such as `threads 2, now 1`; empty if nothing does."""
    return "; ".join(
        f"{name} {_in_words(recorded.get(name), now.get(name))}"
        for name in recorded | now
        if recorded.get(name) != now.get(name)
    )


def _in_words(then: object, now: object) -> str:
    if isinstance(then, list) and isinstance(now, list):
        gone, come = sorted(set(then) - set(now)), sorted(set(now) - set(then))
        return "now " + " and ".join(
            f"{word} {', '.join(items)}" for word, items in (("without", gone), ("with", come)) if items
        )
    return f"{then}, now {now}"
