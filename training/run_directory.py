"""The directory of a run: where its files are, and that one process at a time writes to it."""

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
    """`outputs/<name>`; self-sufficient: `scripts.generate` and `scripts.evaluate` need only its path.

    Use it as a context: it is locked inside, and the lock of a process that has died is free. A run that
    fails before it has recorded its config leaves nothing behind.

    Raises:
        RunError: if it cannot be made, or another process is using it; and in place of an `OSError` of what
            is done inside, if it is about writing here.
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
        self.given_up: set[Path] = set()  # what is optional and cannot be written
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __enter__(self) -> "RunDirectory":
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self._made:
                sync(path.parent)
            self._lock.acquire()
            self._locked = os.stat(self._lock.lock_file)
        except Timeout as error:
            raise RunError(
                f"{self.path} is in use by another process. Wait for it, or use name= for a run beside it."
            ) from error
        except OSError as error:
            self._remove_what_was_made()
            raise self._cannot_write(error) from error
        return self

    def __exit__(self, kind, error: BaseException | None, traceback) -> None:
        if self._is_owned() and not (self.config.exists() or self.checkpoints.exists()):  # it never began
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._remove_what_was_made()
        self._lock.release()
        if isinstance(error, OSError) and self._is_about_writing_here(error):
            raise self._cannot_write(error) from error

    def check_owned(self) -> None:
        """Raises RunError if the directory that was locked is no longer the one at its path."""
        if not self._is_owned():
            raise RunError(
                f"{self.path} was removed or replaced while this run was writing to it. Nothing more is "
                "written; the same command begins anew."
            )

    @contextlib.contextmanager
    def optional(self, path: Path) -> Iterator[None]:
        """Inside, what cannot be written to a path of this directory is told once and then passed over."""
        try:
            yield
        except Exception as error:
            if path not in self.given_up:
                self.given_up.add(path)
                print_note(f"cannot write {path} ({reason(error)}); the run goes on.")

    def _is_owned(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._lock.lock_file), self._locked)
        except OSError:
            return False

    def _remove_what_was_made(self) -> None:
        with contextlib.suppress(OSError):  # not empty, or never made
            for path in self._made:
                path.rmdir()

    def _is_about_writing_here(self, error: OSError) -> bool:
        # A write, unlike an open, does not say to which file.
        return error.errno in DISK_ERRORS or (
            error.filename is not None and self.path in Path(str(error.filename)).parents
        )

    def _cannot_write(self, error: OSError) -> RunError:
        return RunError(f"cannot write to {self.path} ({reason(error)}). Use output_dir= for another place.")
