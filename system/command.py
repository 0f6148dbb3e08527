"""Entry point of every command: exceptions become one line, and TensorFlow is imported without messages."""

import contextlib
import errno
import gc
import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator

from system.errors import CommandError, reason
from system.text import discard_output, print_error, print_note, print_result

USER_ERROR, INTERNAL_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
SHOW_TRACEBACK = "HYDRA_FULL_ERROR"
# Errors of a path that the user can correct.
PATH_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
PATH_ERRORS |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
# Set before the import, since notebooks set MPLBACKEND for the commands that they start.
BACKENDS = {"KERAS_BACKEND": "tensorflow", "MPLBACKEND": "agg"}
# Optional packages that Keras imports for layers and figures that no command uses: 2 of 7 seconds.
HIDDEN_FROM_KERAS = {"sklearn", "matplotlib"}


def run_command(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit code.

    A `CommandError` gives its own code: 2 for what the user can correct, 1 for a run that diverged or lost a
    worker. A path that cannot be accessed gives 2. Any other exception gives 70, one line, and a file with
    the traceback; with HYDRA_FULL_ERROR=1 the traceback is printed instead.
    """
    prepare_standard_streams()
    try:
        try:
            return command() or 0
        finally:
            print_result("", end="")  # flushes what argparse and libraries have printed
    except CommandError as error:
        for line in str(error).splitlines():
            print_error(f"{error.label}: {line}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed its end
        discard_output(1)  # for what is still buffered
        return CLOSED_PIPE
    except Exception as error:
        if getattr(error, "filename", None) and error.errno in PATH_ERRORS:
            print_error(f"error: cannot access {error.filename} ({reason(error)})")
            return USER_ERROR
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
            print_error(f"error: out of memory ({reason(error)}). Choose smaller sizes.")
            return USER_ERROR
        if os.environ.get(SHOW_TRACEBACK) == "1":
            traceback.print_exc()
        else:
            options = {"prefix": "traceback-", "suffix": ".txt", "delete": False, "encoding": "utf-8"}
            with tempfile.NamedTemporaryFile("w", errors="backslashreplace", **options) as file:
                traceback.print_exc(file=file)
            message = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            print_error(f"internal error: {message}; traceback in {file.name}")
        return INTERNAL_ERROR


def prepare_standard_streams() -> None:
    """Opens closed standard streams on the null device, so that no other file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    sys.stdout.reconfigure(errors="backslashreplace")


def available_cores() -> int:
    """Number of processor cores that this process may use, which taskset or a cpuset limits."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stop_signals() -> list[int]:
    """Signals that ask a command to stop; SIGHUP only if it was not started to ignore it, as by nohup."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM] if is_ignored else [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextlib.contextmanager
def forwarding_signals(signals: Iterable[int], processes: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Sends these signals on to the processes inside; yields a list of those received."""
    received = []

    def forward(number, frame):
        received.append(number)
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in signals}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Sets the backends, silences native code while TensorFlow is imported inside, and speeds the import up.

    The import creates about 400,000 objects. Without a pause of the garbage collector and `gc.freeze`,
    traversing them costs a second here and two at exit.
    """
    if "keras" in sys.modules:  # a second gc.freeze would keep the garbage of everything in between
        yield
        return
    for name, backend in BACKENDS.items():
        if (value := os.environ.get(name) or backend).lower() != backend:
            print_note(f"{name}={value} is ignored; this program uses {backend}.")
        os.environ[name] = backend
    os.environ["KERAS_HOME"] = os.devnull  # without keras.json, which may change the type of the weights
    # Several workers: TensorFlow reports the loss of one in many lines at level 2.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if "TF_CONFIG" in os.environ else "2")
    gc.disable()
    try:
        with silenced_standard_error():
            hidden = HIDDEN_FROM_KERAS - sys.modules.keys()
            sys.modules.update(dict.fromkeys(hidden))  # as if they were not installed
            importlib.import_module("keras")
            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # warns of each traced function
            for name in hidden:
                del sys.modules[name]
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def silenced_standard_error() -> Iterator[None]:
    """Redirects file descriptor 2 to the null device; Python exceptions still propagate."""
    saved = os.dup(2)
    try:
        discard_output(2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
