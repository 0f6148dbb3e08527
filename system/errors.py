"""Errors that end a command with one line for the user."""

import re


class CommandError(Exception):
    """A failure that a command reports as `label: message` before it ends with `exit_code`."""

    label = "error"
    exit_code = 2


class ConfigError(CommandError, ValueError):
    """Invalid configuration; each line of the message is one problem."""

    label = "config error"


class DataError(CommandError, ValueError):
    """Data that cannot be found, read or used; the message says what to change."""


class RunError(CommandError, ValueError):
    """A run directory, checkpoint or disk that cannot be used; the message says what to change."""


class DivergedError(CommandError, ArithmeticError):
    """Losses, gradients or weights that are not finite; `good_step` is the last step with finite values."""

    label = "diverged"
    exit_code = 1

    def __init__(self, message: str, *, good_step: int):
        super().__init__(message)
        self.good_step = good_step


class LostWorkerError(CommandError, RuntimeError):
    """Another worker of a multi-host run has ended."""

    exit_code = 1


def reason(error: BaseException) -> str:
    """First line of a library's error message, without TensorFlow's decorations."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\{\{.*?\}\} | \[Op:\w+\]", "", lines[0])
