import os
import signal
import subprocess
import sys

import pytest

from configs.sweep import job_name, run_job


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["++model.position=rotary", "name=other"], "sweep-model.position-rotary"),
        (["optimizer.learning_rate=1e-3", "seed=2"], "sweep-optimizer.learning_rate-1e-3-seed-2"),
        (["++name=other"], "sweep"),
    ],
)
def test_a_job_is_named_after_its_overrides(overrides, name):
    assert job_name("sweep", overrides) == name


def test_names_are_unique_need_no_quotes_and_fit_a_file_system():
    overrides = [["x='1 y 2'"], ["x='1/y/2'"], ["x=1", "y=2"], ["x=-1"], ["x=1"], ["x='é,c=d'"]]
    overrides.append([f"x={'x' * 300}"])
    names = [job_name("sweep", each) for each in overrides]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= 130
        assert all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in name)


def test_a_job_ended_by_a_signal_has_the_exit_code_of_a_shell():
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"]
    assert run_job(command) == 128 + signal.SIGTERM


JOB = """
import pathlib, signal, sys, time

def end(number, frame):
    time.sleep(0.4)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(0)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, end)
print("started", flush=True)
time.sleep(30)
"""
# As in a terminal, also where the tests run in the background.
SWEEP = """
import signal, sys
from configs.sweep import run_job

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
run_job([sys.executable, *sys.argv[1:]])
"""


def test_a_stopped_sweep_waits_for_its_job(tmp_path):
    """Ctrl-C, which a terminal sends to the job too, SIGTERM and SIGHUP."""
    (tmp_path / "job.py").write_text(JOB)
    ends = [
        (lambda sweep: os.killpg(sweep.pid, signal.SIGINT), -signal.SIGINT),
        (lambda sweep: sweep.terminate(), 143),
        (lambda sweep: sweep.send_signal(signal.SIGHUP), 129),
    ]
    sweeps = [
        subprocess.Popen(
            [sys.executable, "-c", SWEEP, str(tmp_path / "job.py"), str(tmp_path / str(number))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for number in range(len(ends))
    ]
    for sweep, (end, _) in zip(sweeps, ends, strict=True):
        while b"started" not in sweep.stdout.readline():
            pass
        end(sweep)
    for number, (sweep, (_, code)) in enumerate(zip(sweeps, ends, strict=True)):
        assert sweep.wait(timeout=120) == code
        assert (tmp_path / str(number)).exists()
