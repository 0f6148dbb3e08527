"""What tests of the command line do with runs and read from them."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import train

PROGRAM = Path(train.__file__)


def tensors_of(run, *, step=None):
    """All that the latest checkpoint holds, or that of a step: weights, optimizer slots, the iteration."""
    checkpoints = run / "checkpoints"
    path = max(checkpoints.iterdir()) if step is None else checkpoints / f"step-{step:08d}"
    reader = tf.train.load_checkpoint(str(path / "tensors"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def rows_of(run):
    """Rows of metrics.jsonl, without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(sum(map(is_timing, row)) == 2 for row in rows)
    return [{key: value for key, value in row.items() if not is_timing(key)} for row in rows]


def is_timing(key):
    return key == "elapsed_seconds" or key.endswith("_per_second")


def contents_of(directory):
    """Bytes of every file below."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def copy_of(run, name):
    """A run that is another in name alone."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    return copy


def start_process(workplace, *changes):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *workplace.arguments(*changes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def refusal(workplace, capsys, *changes, label="error"):
    """The lines of a command that must end with exit code 2, say nothing else, and change nothing on disk."""
    capsys.readouterr()
    before = contents_of(workplace.outputs)
    assert workplace.train(*changes) == 2
    lines = capsys.readouterr().err.splitlines()
    assert contents_of(workplace.outputs) == before
    assert all(line.startswith(f"{label}: ") for line in lines)
    return [line.removeprefix(f"{label}: ") for line in lines]
