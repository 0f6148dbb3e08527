"""What can stop a run, with a one-line message for the user."""

import re


class RunError(ValueError):
    """A user's mistake about a run directory or a checkpoint, or a disk that cannot be written."""


class DivergedError(ArithmeticError):
    """Losses, gradients or weights that are not finite; all was well until after `good_step`."""

    def __init__(self, message: str, *, good_step: int):
        super().__init__(message)
        self.good_step = good_step


class LostWorkerError(RuntimeError):
    """Another worker of the run has ended before its time."""


def reason(error: BaseException) -> str:
    """What a library says is wrong, in one line, without TensorFlow's marks around it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\{\{.*?\}\} | \[Op:\w+\]", "", lines[0])
