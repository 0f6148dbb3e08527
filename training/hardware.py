"""What this machine has: what `precision=auto` and `compile=auto` stand for on it, and its memory."""

from pathlib import Path

import psutil
import tensorflow as tf

from system.machine import processor_flags

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def resolve_precision(precision: str) -> tuple[str, str]:
    """`float32` or `mixed_bfloat16`, and the reason, in words.

    `auto` is decided by what the processor says it has, never by a timing, so that a resume decides alike.
    """
    if precision != "auto":
        return precision, "as set"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        name = f"GPU of compute capability {capability[0]}.{capability[1]}"
        return ("mixed_bfloat16" if capability >= (8, 0) else "float32"), name
    flags = sorted(BFLOAT16_FLAGS & processor_flags())
    if flags:
        return "mixed_bfloat16", f"the processor has {', '.join(flags)}"
    return "float32", "the processor has no bfloat16 instructions"


def resolve_compile(compile_mode: str) -> tuple[str, str]:
    """`graph` or `xla`, and the reason, in words."""
    if compile_mode != "auto":
        return compile_mode, "as set"
    if tf.config.list_physical_devices("GPU"):
        return "xla", "a GPU"
    return "graph", "oneDNN's matmuls are the faster ones on a CPU"


def make_deterministic() -> None:
    """From here on, an operation gives the same bits each time on the same device, or raises."""
    tf.config.experimental.enable_op_determinism()


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of main memory that this process can still take, within the limit of a container."""
    free = psutil.virtual_memory().available
    try:
        limit = int((cgroup / "memory.max").read_text())
    except (OSError, ValueError):  # no container, or no limit
        return free
    return max(0, min(free, limit - psutil.Process().memory_info().rss))
