"""Saves that a crash or a disk interrupts."""

import errno
import os
import resource
import shutil

import pytest
import tensorflow as tf

from system.errors import RunError
from tests.run_helpers import assert_same_tensors
from tests.training.checkpoint_runs import FILES, Run
from training.checkpoints import restore_weights


def test_what_a_crash_left_half_written_is_ignored_and_cleared(run, tmp_path):
    run.save(1)
    partial = run.checkpoints.directory / "step-00000017.partial"
    shutil.copytree(run.checkpoints.directory / "step-00000001", partial)
    (partial / "manifest.json").write_text('{"format": 2, "step": 17, "files": {}, "tensors": {}}')
    assert restore_weights(tmp_path, run.model)["step"] == 1
    assert partial.exists()  # it may be that of a run that goes on
    assert run.checkpoints.restore_latest()["step"] == 1
    assert not partial.exists()


CALLS = ((tf.raw_ops, "SaveV2"), (os, "fsync"), (os, "replace"), (shutil, "rmtree"))


def save_until(monkeypatch, run, number):
    """Saves step 3 until that call to the disk, which does not happen; whether there are so many."""
    calls = iter(range(number))

    def or_die(function):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt  # as in a kill: it is no Exception, and passes through
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, or_die(getattr(owner, name)))
        try:
            run.save(3)
        except KeyboardInterrupt:
            return True
    return False


def test_a_crash_at_any_call_of_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    steps, was_cut = [], True
    while was_cut:
        run = Run(tmp_path / str(len(steps)), keep=1)
        run.save(2)
        was_cut = save_until(monkeypatch, run, len(steps))
        run.fill(0)
        steps.append(run.checkpoints.restore_latest()["step"])
        assert_same_tensors(run.values(), Run(tmp_path / "expected", seed=steps[-1]).values())
        assert list(run.checkpoints.directory.glob("*.partial")) == []
        run.save(3)
        assert run.names() == ["step-00000003"]
    before = 1 + len(FILES) + 2  # the tensors, each file, their directory, the name
    assert steps == [2] * before + [3] * (len(steps) - before)
    assert len(steps) > before + 3  # two directories, and the one that goes


def test_a_checkpoint_has_its_name_only_once_it_is_on_disk(run, monkeypatch):
    """What a power cut may reorder is between two calls of fsync."""
    calls = []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.readlink(f"/proc/self/fd/{file}")))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append((old, new)) or old.rename(new))
    path = run.save(1)
    aside = path.with_name(f"{path.name}.partial")
    named = calls.index((aside, path))
    assert {*calls[:named]} == {str(aside), *(str(aside / name) for name in FILES)}
    assert calls[named - 1] == str(aside)
    assert calls[named + 1 :] == [str(path.parent), str(path.parent.parent)]


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(run, tmp_path):
    run.save(1)
    checkpoints = run.checkpoints.directory
    checkpoints.rename(tmp_path / "elsewhere")
    checkpoints.symlink_to(tmp_path / "not mounted")
    with pytest.raises(RunError, match=r"checkpoints cannot be read \(No such file or directory\)"):
        run.checkpoints.restore_latest()
    checkpoints.unlink()
    checkpoints.touch()
    with pytest.raises(RunError, match=r"checkpoints cannot be read \(Not a directory\)"):
        run.checkpoints.restore_latest()


def test_a_full_disk_is_told_in_a_line_and_leaves_the_earlier_ones(run):
    """A limit on the size of files fails each write past it, as a full disk does."""
    run.save(1)
    run.save(2)
    expected = run.values()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(
            RunError, match=r"cannot write the checkpoint of step 3 .*File too large"
        ) as caught:
            run.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in run.checkpoints.directory.iterdir()) == [
        "step-00000001",
        "step-00000002",
    ]
    assert run.checkpoints.restore_latest()["step"] == 2
    assert_same_tensors(run.values(), expected)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_error_of_the_disk_is_told_in_a_line(run, monkeypatch, function):
    run.save(1)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(RunError, match=r"checkpoint of step 2 in .* \(No space left on device\)"):
        run.save(2)
    monkeypatch.undo()
    assert run.names() == ["step-00000001"]


def test_a_checkpoint_that_cannot_be_removed_is_not_told_as_one_that_is_not_written(tmp_path, monkeypatch):
    run = Run(tmp_path, keep=1)
    run.save(1)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError):
        run.save(2)
    monkeypatch.undo()
    assert run.checkpoints.restore_latest()["step"] == 2
