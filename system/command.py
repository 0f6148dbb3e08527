"""Entry point of every command: exceptions become a one-line message and an exit code."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable

from system.errors import CommandError
from system.terminal import print_error

USER_ERROR, INTERNAL_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
SHOW_TRACEBACK = "HYDRA_FULL_ERROR"


def run_command(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit code.

    A `CommandError` gives its own code: 2 for what the user can correct, 1 for a run that diverged or lost a
    worker. Any other exception gives 70, one line, and a file with the traceback; with HYDRA_FULL_ERROR=1 the
    traceback is printed instead.
    """
    show_traceback = os.environ.get(SHOW_TRACEBACK) == "1"
    try:
        return command() or 0
    except CommandError as error:
        for line in str(error).splitlines():
            print_error(f"{error.label}: {line}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        return CLOSED_PIPE
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        else:
            print_error(f"internal error: {describe(error)}; traceback in {save_traceback()}")
        return INTERNAL_ERROR


def describe(error: Exception) -> str:
    """Type and first line of the message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def save_traceback() -> str:
    """Writes the traceback of the current exception to a new temporary file and returns its path."""
    descriptor, path = tempfile.mkstemp(prefix="traceback-", suffix=".txt")
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        traceback.print_exc(file=file)
    return path
