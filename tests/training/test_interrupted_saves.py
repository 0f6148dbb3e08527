"""Saves that a crash or a disk error interrupts."""

import os
import shutil

import pytest
import tensorflow as tf

from system.errors import RunError
from tests.run_helpers import assert_same_tensors, contents_of
from tests.training.checkpoint_runs import FILES, Run
from training.checkpoints import restore_weights


def test_a_half_written_checkpoint_is_ignored_and_removed(run, tmp_path):
    run.save(1)
    partial = run.checkpoints.directory / ".step-00000017.partial"
    shutil.copytree(run.checkpoints.directory / "step-00000001", partial)
    (partial / "manifest.json").write_text('{"format": 3, "step": 17}')
    assert restore_weights(tmp_path, run.model)["step"] == 1
    assert partial.exists()  # another process may be writing it
    assert run.checkpoints.restore_latest()["step"] == 1
    assert not partial.exists()


def test_other_files_are_ignored_and_links_are_not_followed(tmp_path):
    run = Run(tmp_path / "run", keep=1)
    directory, elsewhere = run.checkpoints.directory, tmp_path / "elsewhere"
    shutil.move(run.save(1), elsewhere)
    (directory / "step-00000001").symlink_to(elsewhere)  # moved to another disk
    (directory / ".step-00000002.partial").symlink_to(elsewhere)
    (directory / "step-00000003").symlink_to("nowhere")
    (directory / "step-00000004").touch()
    others = ["notes.partial", "step-7", "step-8.partial"]
    for name in others:
        (directory / name).touch()
    before = contents_of(elsewhere)
    assert run.checkpoints.restore_latest()["step"] == 1
    for step in (3, 4):
        run.save(step)
    assert run.checkpoints.restore_latest()["step"] == 4
    assert {path.name for path in directory.iterdir()} == {"step-00000004", *others}
    assert contents_of(elsewhere) == before


CALLS = ((tf.raw_ops, "SaveV2"), (os, "fsync"), (os, "replace"), (shutil, "rmtree"))


def save_until(monkeypatch, run, number):
    """Saves step 3 up to the disk call of that number, which fails; returns whether it was reached."""
    calls = iter(range(number))

    def failing(function):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt  # not an Exception, like a kill: no handler runs
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, failing(getattr(owner, name)))
        try:
            run.save(3)
        except KeyboardInterrupt:
            return True
    return False


def test_a_crash_at_any_disk_call_leaves_a_complete_checkpoint(tmp_path, monkeypatch):
    steps, was_interrupted = [], True
    while was_interrupted:
        run = Run(tmp_path / str(len(steps)), keep=1)
        run.save(2)
        was_interrupted = save_until(monkeypatch, run, len(steps))
        run.fill(0)
        steps.append(run.checkpoints.restore_latest()["step"])
        restored = run.values()
        run.fill(steps[-1])
        assert_same_tensors(restored, run.values())
        assert list(run.checkpoints.directory.glob("*.partial")) == []
        run.save(3)
        assert run.names() == ["step-00000003"]
    before = 1 + len(FILES) + 2  # the tensors, each file, their directory, the name
    assert steps == [2] * before + [3] * (len(steps) - before)
    assert len(steps) > before + 3  # two directories, and the superseded checkpoint


def test_a_checkpoint_is_synced_before_it_is_renamed(run, monkeypatch):
    """A power cut may reorder writes between two calls of fsync."""
    calls = []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.readlink(f"/proc/self/fd/{file}")))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append((old, new)) or old.rename(new))
    path = run.save(1)
    aside = path.with_name(f".{path.name}.partial")
    named = calls.index((aside, path))
    assert {*calls[:named]} == {str(aside), *(str(aside / name) for name in FILES)}
    assert calls[named - 1] == str(aside)
    assert calls[named + 1 :] == [str(path.parent), str(path.parent.parent)]


def test_a_disk_error_leaves_the_checkpoint_of_the_same_step(run, monkeypatch):
    before = contents_of(run.save(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os.fstat(-1))
        with pytest.raises(RunError, match=r"step 1 .*\(Bad file descriptor\); earlier checkpoints are unch"):
            run.save(1, seed=5)
    assert contents_of(run.checkpoints.directory / "step-00000001") == before
    assert run.names() == ["step-00000001"]


def test_an_unreadable_checkpoint_directory_is_an_error(run, tmp_path):
    run.save(1)
    checkpoints = run.checkpoints.directory
    checkpoints.rename(tmp_path / "elsewhere")
    checkpoints.symlink_to(tmp_path / "not mounted")
    with pytest.raises(RunError, match=r"checkpoints cannot be read \(No such file or directory\)"):
        run.checkpoints.restore_latest()
