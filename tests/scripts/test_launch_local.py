"""Launcher of several workers, which are here one line of Python each."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from scripts import launch_local
from scripts.launch_local import launch

READ_TASK = "import json, os, sys, time\nconfig = json.loads(os.environ['TF_CONFIG'])\n"


def command(code):
    return [sys.executable, "-c", READ_TASK + code]


def test_workers_get_their_task_and_their_lines_are_numbered(capfd):
    code = "print(json.dumps(config), file=sys.stderr if config['task']['index'] else sys.stdout)"
    assert launch(command(code), num_workers=3) == 0
    lines = dict(line.removeprefix("[worker ").split("] ") for line in capfd.readouterr().out.splitlines())
    configs = {int(number): json.loads(config) for number, config in lines.items()}
    assert {number: config["task"]["index"] for number, config in configs.items()} == {0: 0, 1: 1, 2: 2}
    (addresses,) = {tuple(config["cluster"]["worker"]) for config in configs.values()}
    assert len(set(addresses)) == 3


def test_the_failure_of_a_worker_ends_all_and_gives_its_exit_code(monkeypatch):
    monkeypatch.setattr(launch_local, "PATIENCE", 0.2)
    started = time.monotonic()
    assert launch(command("sys.exit(3) if config['task']['index'] else time.sleep(300)"), num_workers=2) == 3
    assert time.monotonic() - started < 100


def test_a_killed_worker_gives_the_exit_code_of_a_shell():
    assert launch(command("os.kill(os.getpid(), 9)"), num_workers=1) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_forwarded_to_the_workers(number, tmp_path, monkeypatch):
    monkeypatch.setattr(launch_local, "stop_signals", lambda: [number])  # also SIGHUP under nohup
    code = (
        "import signal\n"
        f"signal.signal({number:d}, lambda *_: sys.exit(130))\n"
        f"open(os.path.join({str(tmp_path)!r}, str(os.getpid())), 'w').close()\n"
        "time.sleep(300)\n"
    )

    def stop():
        while len(os.listdir(tmp_path)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert launch(command(code), num_workers=2) == 130
