"""The directory of a run: where its files are, and that one process at a time writes to it."""

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from training.errors import RunError


class RunDirectory:
    """`outputs/<name>`; self-sufficient: `scripts.generate` and `scripts.evaluate` need only its path.

    Use it as a context: it is locked inside, and the lock of a process that has died is free.

    Raises:
        RunError: if it cannot be made or written to, or another process is using it.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.samples = self.path / "samples.txt"
        self.loss_plot = self.path / "loss.png"
        self.summary = self.path / "summary.json"
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __enter__(self) -> "RunDirectory":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise RunError(
                f"{self.path} is in use by another process. Wait for it, or use name= for a run beside it."
            ) from error
        except OSError as error:
            raise RunError(
                f"cannot write to {self.path} ({error.strerror}). Use output_dir= for another place."
            ) from error
        return self

    def __exit__(self, *_) -> None:
        self._lock.release()
        if not self.config.exists():  # the run never began: leave nothing behind
            Path(self._lock.lock_file).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
