"""Stopping a run between two steps."""

import os
import signal


class StopRequest:
    """Inside this context, the first Ctrl-C or SIGTERM only sets `requested`; a second one acts at once."""

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        self.requested = True
        self.__exit__()
        os.write(2, b"\nstopping after this step; once more to stop at once\n")  # print() may be interrupted
