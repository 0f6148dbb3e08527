"""Hardware and software of this machine: precision, compile mode, memory, environment of a run."""

import os
import platform
from pathlib import Path

import keras
import numpy as np
import psutil
import tensorflow as tf

from system.command import available_cores, silenced_standard_error
from system.text import format_command, format_count, print_note

# Prefixes of processor flags that decide which CPU kernels run.
KERNEL_FLAGS = ("amx", "avx", "f16c", "fma", "sse")
CGROUP = Path("/sys/fs/cgroup")
ENVIRONMENT_VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "TF_XLA_FLAGS", "XLA_FLAGS")


def resolve_precision(precision: str) -> tuple[str, str]:
    """Dtype policy, `float32` or `mixed_bfloat16`, and the reason; equal at each start on one machine."""
    if precision != "auto":
        return precision, "as set"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        name = f"GPU of compute capability {capability[0]}.{capability[1]}"
        return ("mixed_bfloat16" if capability >= (8, 0) else "float32"), name
    flags = sorted({"avx512_bf16", "amx_bf16"} & processor_flags())
    if flags:
        return "mixed_bfloat16", f"the processor has {', '.join(flags)}"
    return "float32", "the processor has no bfloat16 instructions"


def resolve_compile(compile_mode: str) -> tuple[str, str]:
    """Compile mode, `graph` or `xla`, and the reason for it."""
    if compile_mode != "auto":
        return compile_mode, "as set"
    if tf.config.list_physical_devices("GPU"):
        return "xla", "a GPU"
    return "graph", "XLA is slower on a CPU"


def describe_device(devices: Path = Path("/dev")) -> str:
    """The first GPU, or the CPU; prints a note if TensorFlow cannot use the NVIDIA GPU of this machine."""
    if gpus := tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    if any(devices.glob("nvidia[0-9]*")) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        command = format_command("-m", "pip", "install", f"tensorflow[and-cuda]=={tf.__version__}")
        print_note(f"TensorFlow cannot use the NVIDIA GPU of this machine. Its CUDA libraries: {command}")
    return f"CPU with {format_count(num_threads(), 'thread')}"


def initialize_devices() -> None:
    """Initializes TensorFlow's devices without the messages that ignore the log level."""
    with silenced_standard_error():
        tf.config.list_logical_devices()


def physical_memory(cgroup: Path = CGROUP) -> int:
    """Bytes of main memory, within the limit of a container."""
    size = psutil.virtual_memory().total
    try:
        return min(size, int((cgroup / "memory.max").read_text()))
    except (OSError, ValueError):  # no container, or no limit
        return size


def describe_environment() -> dict:
    """JSON values that decide the bits of a result on a CPU: versions, processor flags, threads."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "processor": platform.machine(),
        "processor_flags": sorted(flag for flag in processor_flags() if flag.startswith(KERNEL_FLAGS)),
        "threads": num_threads(),
        "gpus": [details.get("device_name", "GPU") for details in gpus],
        **{name: os.environ[name] for name in ENVIRONMENT_VARIABLES if name in os.environ},
    }


def num_threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or available_cores()


def environment_changes(recorded: dict, current: dict) -> str:
    """Differences such as `threads 2, now 1`; of lists, the items that differ; empty if there are none."""
    changes = []
    for name in recorded | current:
        before, now = recorded.get(name), current.get(name)
        if isinstance(before, list) and isinstance(now, list):
            before, now = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        if before != now:
            changes.append(f"{name} {before}, now {now}")
    return "; ".join(changes)


def describe_machine() -> str:
    """Number of cores, processor and Python version, such as `2 cores of AMD EPYC, Python 3.11.7`."""
    processor = next(filter(None, [*processor_lines("model name"), platform.processor(), platform.machine()]))
    return f"{os.cpu_count()} cores of {processor}, Python {platform.python_version()}"


def processor_flags() -> set[str]:
    """Instruction sets that Linux reports; empty on other systems."""
    return {flag for line in processor_lines("flags") for flag in line.split()}


def processor_lines(key: str) -> list[str]:
    """Values of `key` in /proc/cpuinfo, one for each core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]
