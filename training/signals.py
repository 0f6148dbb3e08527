"""Stopping a run between two steps, at a signal or after a time limit."""

import contextlib
import math
import os
import signal
import threading
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Signals within this time are one request: `timeout` sends one to the process and one to its group.
REQUEST_SECONDS = 0.1
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later


class StopRequest:
    """Context in which the first Ctrl-C or SIGTERM sets `code` and a second one ends the process.

    A thread handles the signals even during a step or its compilation, which delay Python's handlers.
    SIGHUP sets `code` too but never ends the process, since a closing terminal may send several.

    Args:
        max_minutes: time after which `code` is set; None for no limit.
    """

    def __init__(self, max_minutes: float | None = None):
        self._code = 0
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes

    @property
    def code(self) -> int:
        """Exit code: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 75 out of time, otherwise 0."""
        return self._code or (OUT_OF_TIME if time.monotonic() >= self._deadline else 0)

    def __enter__(self) -> "StopRequest":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer)
        self._previous_handlers = {
            number: signal.signal(number, self._set_code) for number in (*SIGNALS, *hangup_signals())
        }
        threading.Thread(target=self._listen, args=(self._reader,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)  # ends the thread

    def _set_code(self, number, frame) -> None:
        self._code = self._code or 128 + number

    @staticmethod
    def _listen(reader: int) -> None:
        """Handles each signal number that the wake-up file descriptor receives."""
        first_time = None
        while number := os.read(reader, 1):
            if number[0] not in SIGNALS:
                continue
            if first_time is None:
                first_time = time.monotonic()
                with contextlib.suppress(OSError):  # a closed pipe
                    os.write(2, b"\nstopping after this step; once more to stop at once\n")
            elif time.monotonic() > first_time + REQUEST_SECONDS:
                os._exit(128 + number[0])
        os.close(reader)


def hangup_signals() -> list[int]:
    """SIGHUP, unless this process was started to ignore it, as by nohup."""
    return [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
