"""Steps whose loss or gradient is not finite: each is skipped, and too many in a row end a run."""

from system.errors import DivergedError


class BadSteps:
    """Counts them. A checkpoint records the counts, so that a resumed run ends where the other would.

    Args:
        max_in_a_row: at which the run ends.
        counted: of a checkpoint, see `facts`.
    """

    def __init__(self, max_in_a_row: int, counted: dict[str, int] | None = None):
        self.max_in_a_row = max_in_a_row
        counts = counted or {}
        self.in_a_row, self.in_all = counts.get("in_a_row", 0), counts.get("in_all", 0)

    @property
    def facts(self) -> dict[str, int]:
        return {"in_a_row": self.in_a_row, "in_all": self.in_all}

    def count(self, is_bad: bool) -> None:
        self.in_a_row = self.in_a_row + 1 if is_bad else 0
        self.in_all += is_bad

    def check(self, done: int, *, loss: float, norm: float) -> None:
        """Raises DivergedError once there are too many in a row; `done` counts the last one."""
        if self.in_a_row >= self.max_in_a_row:
            steps = f"{self.in_a_row} steps in a row" if self.in_a_row > 1 else "a step"
            raise DivergedError(
                f"step {done:,}: loss {loss}, gradient norm {norm}; {steps} without finite ones",
                good_step=done - self.in_a_row,
            )
