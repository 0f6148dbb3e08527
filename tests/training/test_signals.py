import hashlib
import os
import signal
import threading
import time

import pytest

from training import loop
from training.loop import StopRequest

ANSWER = "stopping after this step; once more to stop at once"


@pytest.fixture(autouse=True)
def without_nohup():
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, handler)


@pytest.fixture
def exit_codes(monkeypatch):
    """Exit codes with which the process would have ended at once."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def wait_until(is_so):
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_sets_the_code_and_a_second_one_ends_the_process(
    number, code, exit_codes, monkeypatch, capfd
):
    """Two signals at once, as `timeout` sends them to the process and to its group, are one request."""
    monkeypatch.setattr(loop, "REQUEST_SECONDS", 300.0)
    with StopRequest() as stop:
        assert stop.code == 0
        send(number)
        assert stop.code == code
        send(number)
        time.sleep(0.1)
        assert capfd.readouterr().err == f"\n{ANSWER}\n"
        assert exit_codes == []
        monkeypatch.setattr(loop, "REQUEST_SECONDS", 0.0)
        send(number)
        wait_until(lambda: exit_codes)
    assert exit_codes == [code]


def test_signals_are_handled_during_native_code(exit_codes, monkeypatch):
    """Python's handlers wait for the end of native code, such as a step."""
    monkeypatch.setattr(loop, "REQUEST_SECONDS", 0.0)
    events = []

    def send_two():
        send(signal.SIGTERM)
        time.sleep(0.05)
        send(signal.SIGINT)
        wait_until(lambda: exit_codes)
        events.append("ended")

    sender = threading.Thread(target=send_two)
    with StopRequest():
        sender.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)  # about a second
        events.append("native code returned")
        sender.join()
    assert events == ["ended", "native code returned"]
    assert exit_codes == [130]


def test_repeated_hangups_set_the_code_and_do_not_end_the_process(exit_codes, monkeypatch, capfd):
    monkeypatch.setattr(loop, "REQUEST_SECONDS", 0.0)
    with StopRequest() as stop:
        send(signal.SIGHUP, signal.SIGHUP, signal.SIGHUP)
        assert stop.code == 129
        time.sleep(0.1)
    assert exit_codes == []
    assert capfd.readouterr().err == ""


def test_hangups_are_ignored_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        send(signal.SIGHUP)
        assert stop.code == 0
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_restored_at_exit():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    threads = threading.active_count()
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1
    wait_until(lambda: threading.active_count() <= threads)
