"""Lines on the terminal; a closed terminal or pipe does not stop the program."""

import contextlib
import os
import sys
from collections.abc import Iterator

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


def print_line(text: str) -> None:
    """Prints a line on standard output; the first failure is reported, later ones are not."""
    with discarding_when_closed(STANDARD_OUTPUT) as failures:
        print(text, flush=True)
    for error in failures:
        print_note(f"cannot write to standard output ({error.strerror}); the run continues.")


def print_error(text: str) -> None:
    """Prints a line on standard error, where it does not mix with results."""
    with discarding_when_closed(STANDARD_ERROR):
        print(text, file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """Prints `note: text` on standard error."""
    print_error(f"note: {text}")


@contextlib.contextmanager
def discarding_when_closed(descriptor: int) -> Iterator[list[OSError]]:
    """Ignores an OSError of a write inside, and redirects `descriptor` to the null device from then on.

    Yields a list that receives the error.
    """
    failures: list[OSError] = []
    try:
        yield failures
    except OSError as error:
        failures.append(error)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
