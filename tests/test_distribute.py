"""Runs of two workers that are processes, against one device; see also `tests/training/test_replicas.py`."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.comparison import rows_of, tensors_of
from tests.run_helpers import wait_for

# Most of the time is spent starting TensorFlow and tracing, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[1]
CPUS = ("distribute=mirrored", "distribute.devices=[CPU:0,CPU:1]")


def arguments(workplace, *changes):
    """Arguments of a tiny run on a text without dropout that logs every step."""
    defaults = {"model.dropout": "0.0", "num_steps": "20", "checkpoint_every": "5", "log_every": "1"}
    defaults |= {"optimizer.clip_norm": "0.3", "sample_every": "20"}
    changed = {change.partition("=")[0] for change in changes}
    others = (f"{key}={value}" for key, value in defaults.items() if key not in changed)
    return workplace.arguments(*changes, *others)


@contextlib.contextmanager
def started_workers(workplace, *changes):
    """Launcher of two workers of train.py, which end with the context."""
    command = [sys.executable, "-m", "scripts.launch_local", "--workers", "2", "--"]
    command += arguments(workplace, "distribute=multi_worker", *changes)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **output) as launcher:
        try:
            yield launcher
        finally:
            launcher.terminate()  # and so its workers


def drop_after(run, step):
    """Removes what a run that was killed after that step would not have written."""
    for path in (run / "checkpoints").iterdir():
        if int(path.name[-8:]) > step:
            shutil.rmtree(path)
    (run / "summary.json").unlink()


def assert_ends_as(run, whole):
    for row, wanted in zip(rows_of(run), rows_of(whole), strict=True):
        # A rounding error may change a sample.
        numbers, expected = ({key: row[key] for key in row if key != "sample"} for row in (row, wanted))
        assert numbers == pytest.approx(expected, rel=1e-5), f"step {wanted['step']}"
    actual, expected = tensors_of(run), tensors_of(whole)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_run_of_two_workers_ends_as_one_on_one_device_after_a_worker_was_killed(workplace):
    """The same run then resumes on one device, and on two replicas."""
    whole, run = workplace.outputs / "alone", workplace.outputs / "workers"
    assert workplace.train(*arguments(workplace, "name=alone")) == 0

    with started_workers(workplace, "name=workers", "checkpoint_every=1") as launcher:
        wait_for(run / "checkpoints" / "step-00000003", launcher)
        # The launcher starts them in order.
        children = sorted(psutil.Process(launcher.pid).children(), key=psutil.Process.create_time)
        children[1].kill()
        output, _ = launcher.communicate(timeout=900)
    assert launcher.returncode == 137
    assert not (run / "summary.json").exists()
    (line,) = [line for line in output.splitlines() if line.startswith("[worker 0] error: ")]
    assert line.startswith("[worker 0] error: worker 1 (127.0.0.1:")
    assert line.endswith(
        ") has ended, and the other workers cannot continue without it. "
        "Start all workers again to resume from the latest checkpoint."
    )

    with started_workers(workplace, "name=workers") as launcher:
        output, _ = launcher.communicate(timeout=900)
    assert launcher.returncode == 0, output
    assert ", resuming after step " in output
    assert_ends_as(run, whole)
    # Only the chief logs and writes.
    assert [line for line in output.splitlines() if "waiting for" not in line and "[worker 1]" in line] == []
    assert output.count("evaluating on all held-out data") == 1
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}

    drop_after(run, 10)
    assert workplace.train(*arguments(workplace, "name=workers")) == 0
    assert_ends_as(run, whole)
    drop_after(run, 15)
    command = [sys.executable, "train.py", *arguments(workplace, "name=workers", *CPUS)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    assert_ends_as(run, whole)
