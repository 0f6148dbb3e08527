"""What a run says on the terminal: that nobody reads it any more is no reason to stop."""

import contextlib
import os
import sys
from collections.abc import Iterator

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


def say(text: str) -> None:
    """Prints a line, if it can still be printed; a note tells of the first that cannot."""
    with unless_gone(STANDARD_OUTPUT) as failures:
        print(text, flush=True)
    for error in failures:
        note(f"cannot write to standard output ({error.strerror}); the run goes on.")


def note(text: str) -> None:
    """A line on standard error, if it can still be printed."""
    with unless_gone(STANDARD_ERROR):
        print(f"note: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def unless_gone(descriptor: int) -> Iterator[list[OSError]]:
    """Inside, a write to a closed terminal, a pipe without a reader or a full disk is passed over.

    From then on what goes there goes nowhere, what is still buffered too. Yields a list of such an error.
    """
    failures = []
    try:
        yield failures
    except OSError as error:
        failures.append(error)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
