import errno
import os
import shutil

import pytest

from system.errors import RunError
from training.run_log import RunDirectory


def test_a_directory_in_use_is_refused_until_it_is_released(tmp_path):
    with RunDirectory(tmp_path / "run") as directory:
        directory.config.touch()
        with pytest.raises(RunError, match="in use by another process"), RunDirectory(directory.path):
            pass
        assert directory.config.exists()
    with pytest.raises(ZeroDivisionError), RunDirectory(directory.path):
        raise ZeroDivisionError
    assert directory.config.exists()


def test_a_run_that_fails_before_its_config_is_recorded_leaves_what_it_found(tmp_path):
    path = tmp_path / "outputs" / "run"
    with pytest.raises(ZeroDivisionError), RunDirectory(path):
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError), RunDirectory(path):
        (tmp_path / "elsewhere").read_text()
    assert [found.name for found in path.iterdir()] == ["notes.txt"]


def test_the_parents_of_a_new_directory_are_synced(tmp_path, monkeypatch):
    """A power cut must not remove a directory that has checkpoints."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    with RunDirectory(tmp_path / "outputs" / "run"):
        assert set(synced) == {str(tmp_path), str(tmp_path / "outputs")}


@pytest.mark.parametrize("name", [".lock", "checkpoints", "tensorboard", "tensorboard/validation"])
def test_a_link_below_the_directory_is_refused(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match="symbolic link"), RunDirectory(tmp_path / "run"):
        pass
    assert list((tmp_path / "outside").iterdir()) == []


def test_an_unwritable_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("a regular file")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError) as caught, RunDirectory(path):
            pass
        assert str(caught.value).startswith(f"cannot write to {path} (")
    assert (tmp_path / "file").read_text() == "a regular file"


@pytest.mark.parametrize("name", ["metrics.jsonl", None])
def test_a_full_disk_is_reported_in_one_line(tmp_path, name):
    error = OSError(errno.ENOSPC, "No space left on device", name and str(tmp_path / "run" / name))
    refused = pytest.raises(RunError, match=r"cannot write to .*run \(No space left")
    with refused, RunDirectory(tmp_path / "run") as directory:
        directory.config.touch()
        raise error


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_removed_or_replaced_directory_is_not_owned(tmp_path, is_replaced):
    """A new directory at the path has another lock."""
    path = tmp_path / "run"
    with RunDirectory(path) as directory:
        directory.config.touch()
        directory.check_owned()
        shutil.rmtree(path)
        if is_replaced:
            path.mkdir()
            (path / ".lock").touch()
        with pytest.raises(RunError, match="was removed or replaced while this run was writing"):
            directory.check_owned()
    assert (path / ".lock").exists() == is_replaced
