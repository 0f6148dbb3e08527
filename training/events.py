"""The curves and samples that TensorBoard shows, without those that a resumed run writes again."""

import os
from pathlib import Path

import tensorflow as tf

from system.files import sync
from training.run_directory import RunDirectory


class Events:
    """Event files of a run; what cannot be written is told once, and is no reason to stop.

    Args:
        directory: of the run.
        start_step: steps already done; events of later steps are dropped.
    """

    def __init__(self, directory: RunDirectory, *, start_step: int):
        self._directory = directory
        self._writer = None
        self._start_step, self._written_then = start_step, set()
        with directory.optional(directory.tensorboard):
            self._written_then = keep_events(directory.tensorboard, until=start_step)
            self._writer = tf.summary.create_file_writer(str(directory.tensorboard))

    def write(self, step: int, values: dict) -> None:
        """Numbers of a step, and text where it is a `sample`, unless the step has them."""
        if self._directory.tensorboard in self._directory.given_up:
            return
        with self._directory.optional(self._directory.tensorboard), self._writer.as_default(step):
            for name, value in values.items():
                if step == self._start_step and name in self._written_then:
                    continue
                if name == "sample":
                    tf.summary.text(name, f"```\n{value}\n```")
                else:
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def sync(self) -> None:
        """Waits until they are on disk."""
        with self._directory.optional(self._directory.tensorboard):
            for path in self._directory.tensorboard.glob("events.*"):
                sync(path)

    def close(self) -> None:
        with self._directory.optional(self._directory.tensorboard):
            if self._writer is not None:
                self._writer.close()


def keep_events(directory: Path, *, until: int) -> set[str]:
    """Puts the events until a step into one file, in place of all there are; the names of those at it."""
    kept, names = {}, set()  # a crash before the last line leaves the same records in two files
    paths = sorted(directory.glob("events.*"))
    for path in paths:
        for record in records_of(path):
            event = tf.compat.v1.Event.FromString(record)
            if event.step <= until:
                kept[record] = True
            if event.step == until:
                names |= {value.tag for value in event.summary.value}
    if paths:
        aside = directory / ".events.partial"
        with tf.io.TFRecordWriter(str(aside)) as writer:
            for record in kept:
                writer.write(record)
        sync(aside)
        os.replace(aside, paths[0])
        sync(directory)
        for path in paths[1:]:
            path.unlink()
    return names


def records_of(path: Path) -> list[bytes]:
    """Of one file, until where a crash has cut it short."""
    records = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            records.append(record)
    except tf.errors.DataLossError:
        pass
    return records
