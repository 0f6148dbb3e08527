"""Directory of a run: its files, and the lock that lets one process write to it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from system.errors import RunError, reason
from system.files import sync
from system.terminal import print_note

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class RunDirectory:
    """Directory `outputs/<name>`, locked inside its context; the lock ends with the process.

    A run that fails before its config is recorded leaves nothing behind.

    Raises:
        RunError: if it cannot be created or another process is using it; also in place of an `OSError` inside
            the context for a file in this directory.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.samples = self.path / "samples.txt"
        self.predictions = self.path / "predictions.png"
        self.confusion = self.path / "confusion.png"
        self.loss_plot = self.path / "loss.png"
        self.summary = self.path / "summary.json"
        self.unwritable: set[Path] = set()  # optional files that could not be written
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __enter__(self) -> "RunDirectory":
        self._created = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self._created:
                sync(path.parent)
            self._lock.acquire()
            self._lock_status = os.stat(self._lock.lock_file)
        except Timeout as error:
            raise RunError(
                f"{self.path} is in use by another process. Wait for it, or start another run: name=NEW."
            ) from error
        except OSError as error:
            self._remove_created()
            raise self._write_error(error) from error
        return self

    def __exit__(self, kind, error: BaseException | None, traceback) -> None:
        if self._is_owned() and not (self.config.exists() or self.checkpoints.exists()):
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._remove_created()
        self._lock.release()
        if isinstance(error, OSError) and self._is_write_error(error):
            raise self._write_error(error) from error

    def check_owned(self) -> None:
        """Raises RunError if the directory at this path is not the locked one."""
        if not self._is_owned():
            raise RunError(
                f"{self.path} was removed or replaced while this run was writing to it. The run has stopped; "
                "the same command starts a new one."
            )

    @contextlib.contextmanager
    def optional(self, path: Path) -> Iterator[None]:
        """Context for writing an optional file: the first error is printed, and none is raised."""
        try:
            yield
        except Exception as error:
            if path not in self.unwritable:
                self.unwritable.add(path)
                print_note(f"cannot write {path} ({reason(error)}); the run continues without it.")

    def _is_owned(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._lock.lock_file), self._lock_status)
        except OSError:
            return False

    def _remove_created(self) -> None:
        with contextlib.suppress(OSError):  # not empty, or never created
            for path in self._created:
                path.rmdir()

    def _is_write_error(self, error: OSError) -> bool:
        # Errors of a write, unlike those of an open, have no file name.
        return error.errno in DISK_ERRORS or (
            error.filename is not None and self.path in Path(str(error.filename)).parents
        )

    def _write_error(self, error: OSError) -> RunError:
        return RunError(f"cannot write to {self.path} ({reason(error)}). Use output_dir= for another place.")
