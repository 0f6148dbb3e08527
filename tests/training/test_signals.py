import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training.loop import StopRequest

ROOT = Path(__file__).resolve().parents[2]
ANSWER = "stopping after this step; once more to stop at once"
# Native code that signals do not interrupt, like a step.
BUSY = """
import hashlib, signal, sys
import training.loop
from training.loop import StopRequest
training.loop.REQUEST_SECONDS = float(sys.argv[1])
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with StopRequest():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.fixture(autouse=True)
def without_nohup():
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, handler)


def busy(request_seconds=0.0):
    return subprocess.Popen(
        [sys.executable, "-c", BUSY, str(request_seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(is_so):
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_sets_the_code_and_is_answered(number, code, capfd):
    answers = ""

    def is_answered():
        nonlocal answers
        answers += capfd.readouterr().err
        return ANSWER in answers

    with StopRequest() as stop:
        assert stop.code == 0
        os.kill(os.getpid(), number)
        assert stop.code == code
        wait_until(is_answered)
    assert answers.strip() == ANSWER


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_even_in_native_code(number):
    with busy() as process:
        try:
            assert process.stdout.readline() == "busy\n"
            process.send_signal(number)
            assert process.stderr.readline() == "\n"
            assert process.stderr.readline() == f"{ANSWER}\n"
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(timeout=300) == 128 + number
        finally:
            process.kill()


def test_two_signals_at_once_are_one_request():
    """`timeout` sends one to the process and one to its group."""
    with busy(request_seconds=300) as process:
        try:
            assert process.stdout.readline() == "busy\n"
            process.send_signal(signal.SIGTERM)
            assert process.stderr.readline() == "\n"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
        finally:
            process.kill()


def test_repeated_hangups_do_not_end_the_process():
    with busy() as process, StopRequest() as stop:
        try:
            assert process.stdout.readline() == "busy\n"
            for _ in range(3):
                process.send_signal(signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.code == 129
            process.send_signal(signal.SIGTERM)  # its answer shows that the hangups were handled
            assert process.stderr.readline() == "\n"
            assert process.stderr.readline() == f"{ANSWER}\n"
            assert process.poll() is None
        finally:
            process.kill()


def test_hangups_are_ignored_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.code == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_other_signals_are_ignored():
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with StopRequest() as stop:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            assert stop.code == 0
    finally:
        signal.signal(signal.SIGUSR1, handler)


def test_the_code_is_set_after_max_minutes():
    stop = StopRequest(max_minutes=0.05 / 60)
    assert stop.code == 0
    time.sleep(0.06)
    assert stop.code == 75


def test_handlers_are_restored_at_exit():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    threads = threading.active_count()
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1
    wait_until(lambda: threading.active_count() <= threads)
