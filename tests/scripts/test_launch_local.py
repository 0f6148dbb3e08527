"""Several workers on this machine; here they are a line of Python each."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from scripts import launch_local
from scripts.launch_local import free_addresses, launch, main

READ_TASK = "import json, os, sys, time\nconfig = json.loads(os.environ['TF_CONFIG'])\n"


def command(code):
    return [sys.executable, "-c", READ_TASK + code]


def test_each_worker_knows_all_and_its_lines_begin_with_its_number(capfd):
    assert launch(command("print(json.dumps(config))"), num_workers=3) == 0
    told = dict(line.removeprefix("[worker ").split("] ") for line in capfd.readouterr().out.splitlines())
    configs = {int(number): json.loads(config) for number, config in told.items()}
    assert {number: config["task"]["index"] for number, config in configs.items()} == {0: 0, 1: 1, 2: 2}
    (addresses,) = {tuple(config["cluster"]["worker"]) for config in configs.values()}
    assert len(set(addresses)) == 3


def test_what_one_writes_to_standard_error_is_told_too(capfd):
    assert launch(command("print('no', file=sys.stderr)"), num_workers=1) == 0
    assert capfd.readouterr().out == "[worker 0] no\n"


def test_one_that_fails_ends_all_and_gives_its_exit_code(monkeypatch):
    monkeypatch.setattr(launch_local, "PATIENCE", 0.2)
    started = time.monotonic()
    assert launch(command("sys.exit(3) if config['task']['index'] else time.sleep(300)"), num_workers=2) == 3
    assert time.monotonic() - started < 100


def test_one_that_is_killed_counts_as_a_shell_counts_it():
    assert launch(command("os.kill(os.getpid(), 9)"), num_workers=1) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_for_the_workers(number, capfd, monkeypatch):
    """They end as they like; the launcher waits for them."""
    monkeypatch.setattr(
        launch_local, "hangup_signals", lambda: [signal.SIGHUP]
    )  # also where tests run under nohup
    code = (
        "import signal\n"
        f"signal.signal({number:d}, lambda *_: sys.exit(130))\n"
        "print('up', flush=True)\n"
        "time.sleep(300)\n"
    )

    def stop():
        told = ""
        while told.count("up") < 2:
            time.sleep(0.05)
            told += capfd.readouterr().out
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    assert launch(command(code), num_workers=2) == 130


def test_addresses_are_free_and_differ():
    assert len(set(free_addresses(5))) == 5


def test_a_number_of_workers_must_be_one_or_more(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--workers", "0", "--", "name=x"])
    assert caught.value.code == 2
    assert "must be 1 or more, got 0" in capsys.readouterr().err
