"""Progress and skipped items while a data set is read."""

import time
from collections.abc import Callable

from system.errors import DataError
from system.text import format_count, format_duration

REPORT_EVERY_SECONDS = 10
MAX_SKIPPED_NAMED = 20


class Progress:
    """Counts items and reports rate and remaining time every 10 seconds.

    Attributes: `num_skipped` counts the invalid items, `skipped` has the messages of the first 20, and
    `num_repeated` counts duplicates, which the caller increments.

    Args:
        verb: past tense of the action, such as `read`.
        total: number of items.
        unit: name of an item in the singular.
        report: receives one-line messages.
        invalid: "skip", or "error" to raise at the first invalid item.
    """

    def __init__(
        self, verb: str, total: int, unit: str, *, report: Callable[[str], None], invalid: str = "skip"
    ):
        self.num_repeated = self.num_skipped = 0
        self.skipped: list[str] = []
        self._verb, self._total, self._unit = verb, total, unit
        self._report, self._invalid = report, invalid
        self._num_done = 0
        self._started_at = self._reported_at = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Counts `count` more items as done."""
        self._num_done += count
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_SECONDS:
            self._reported_at = now
            seconds_per_item = (now - self._started_at) / self._num_done
            self._report(
                f"{self._verb} {self._num_done:,} of {format_count(self._total, self._unit)}, "
                f"{1 / seconds_per_item:,.0f} per second, "
                f"{format_duration(seconds_per_item * (self._total - self._num_done))} left"
            )

    def skip(self, message: str) -> None:
        """Records an invalid item, `name: reason`.

        Raises:
            DataError: if `invalid` is "error".
        """
        if self._invalid == "error":
            raise DataError(f"{message}; fix or remove the file, or set data.invalid=skip")
        self.num_skipped += 1
        if len(self.skipped) < MAX_SKIPPED_NAMED:
            self.skipped.append(message)

    def facts(self) -> dict:
        """Number and first names of the skipped items, for `report_skipped`."""
        return {"num_skipped": self.num_skipped, "skipped": self.skipped}


def report_skipped(facts: dict, unit: str, report: Callable[[str], None]) -> None:
    """Reports the skipped items that `Progress.facts` recorded."""
    for message in facts["skipped"]:
        report(f"skipped {message}")
    if facts["num_skipped"] > len(facts["skipped"]):
        report(f"skipped {format_count(facts['num_skipped'] - len(facts['skipped']), f'more {unit}')}")
