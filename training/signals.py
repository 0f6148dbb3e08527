"""Stopping a run between two steps: when a signal asks for it, or when its time is over."""

import contextlib
import math
import os
import signal
import threading
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Signals within it, less than a hand needs, are one request: `timeout` sends one to a process and one to its
# group.
REQUEST_SECONDS = 0.1
OUT_OF_TIME = 75  # EX_TEMPFAIL of sysexits.h: the same command may go on later


class StopRequest:
    """Inside this context, the first Ctrl-C or SIGTERM only sets `code`; a second one ends the process.

    The first is answered and the second acts at once, also in the midst of a step or of its compilation,
    where Python's own handlers have to wait. SIGHUP sets `code` too, but never ends the process: a terminal
    that closes may send several.

    Args:
        max_minutes: after which `code` is set; None for no limit.
    """

    def __init__(self, max_minutes: float | None = None):
        self._code = 0
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes

    @property
    def code(self) -> int:
        """The exit code to stop with: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 75 out of time;
        0 to go on.
        """
        return self._code or (OUT_OF_TIME if time.monotonic() >= self._deadline else 0)

    def __enter__(self) -> "StopRequest":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer)
        self._handlers = {number: signal.signal(number, self._note) for number in (*SIGNALS, *hang_up())}
        threading.Thread(target=self._listen, args=(self._reader,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)  # ends the thread

    def _note(self, number, frame) -> None:
        self._code = self._code or 128 + number

    @staticmethod
    def _listen(reader: int) -> None:
        """Answers signals, each of which comes as a byte, as soon as they come."""
        asked = None  # when, first
        while number := os.read(reader, 1):
            if number[0] not in SIGNALS:
                continue
            if asked is None:
                asked = time.monotonic()
                with contextlib.suppress(OSError):  # its reader may have got the same Ctrl-C
                    os.write(2, b"\nstopping after this step; once more to stop at once\n")
            elif time.monotonic() > asked + REQUEST_SECONDS:
                os._exit(128 + number[0])
        os.close(reader)


def hang_up() -> list[int]:
    """SIGHUP; nothing where this process was started to ignore it, as by nohup."""
    return [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
