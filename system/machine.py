"""Processor and memory of this machine."""

import os
import platform
from pathlib import Path


def describe_machine() -> str:
    """Number of cores, processor and Python version, such as `2 cores of AMD EPYC, Python 3.11.7`."""
    names = [*processor_lines("model name"), platform.processor(), platform.machine()]
    processor = next(filter(None, names))
    return f"{os.cpu_count()} cores of {processor}, Python {platform.python_version()}"


def processor_flags() -> set[str]:
    """Instruction sets that Linux reports; empty on other systems."""
    return {flag for line in processor_lines("flags") for flag in line.split()}


def processor_lines(key: str, path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Values of `key` in /proc/cpuinfo, one for each core."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]
