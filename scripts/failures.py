"""How a command fails: a user's mistake is told in a line, without a traceback."""

import os
import sys
from collections.abc import Callable

from configs.schema import ConfigError

USER_MISTAKE = 2
INTERRUPTED = 130
NO_READER = 141


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Runs a command; 0, or what it returns, 2 for what the user can put right, 1 for a run that diverged or
    lost a worker.

    A run that is asked to stop returns a code of `training.signals`.
    """
    try:
        return command() or 0
    except ConfigError as error:
        return tell("config error", error, USER_MISTAKE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still buffered
        return NO_READER
    except Exception as error:
        # Imported once something was raised: they are not worth TensorFlow before.
        from data.errors import DataError
        from training.errors import DivergedError, LostWorkerError, RunError

        if isinstance(error, DataError | RunError):
            return tell("error", error, USER_MISTAKE)
        if isinstance(error, DivergedError):
            return tell("diverged", error, 1)
        if isinstance(error, LostWorkerError):
            return tell("error", error, 1)
        raise


def tell(label: str, error: Exception, code: int) -> int:
    print(*(f"{label}: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
    return code
