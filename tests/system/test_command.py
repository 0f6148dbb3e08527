import importlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from system.command import available_cores, quiet_imports, run_command
from system.errors import ConfigError, DataError, DivergedError, RunError

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = """
import sys
from system.command import run_command
def write():
    while True:
        print("a line")
sys.exit(run_command(write))
"""


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ConfigError("one\ntwo"), 2, "config error: one\nconfig error: two\n"),
        (DataError("no text"), 2, "error: no text\n"),
        (RunError("no run"), 2, "error: no run\n"),
        (DivergedError("step 3", good_step=2), 1, "diverged: step 3\n"),
        (KeyboardInterrupt(), 130, ""),
        (MemoryError("8 TiB"), 2, "error: out of memory (8 TiB). Choose smaller sizes.\n"),
    ],
)
def test_user_errors_are_reported_in_one_line(error, code, lines, capsys):
    assert run_command(Mock(side_effect=error)) == code
    assert capsys.readouterr().err == lines


def test_an_unexpected_exception_becomes_one_line_and_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run_command(lambda: (tmp_path / "absent").read_text()) == 70
    assert f"FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path}/absent'; traceback in " in (
        capsys.readouterr().err
    )
    assert run_command(lambda: 1 / 0) == 70
    (line,) = capsys.readouterr().err.splitlines()
    message, path = line.split("; traceback in ")
    assert message == "internal error: ZeroDivisionError: division by zero"
    assert "run_command(lambda: 1 / 0)" in Path(path).read_text()


def test_a_path_that_cannot_be_accessed_is_an_error_of_the_user(capsys, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (("a" * 300, "File name too long"), ("loop", "Too many levels of symbolic links")):
        assert run_command((tmp_path / name).read_text) == 2
        assert capsys.readouterr().err == f"error: cannot access {tmp_path / name} ({reason})\n"
    assert run_command((tmp_path / "file").mkdir) == 2
    assert capsys.readouterr().err == f"error: cannot access {tmp_path / 'file'} (File exists)\n"


def test_backends_of_other_programs_are_replaced_before_the_import(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    monkeypatch.setattr(os, "environ", {"KERAS_BACKEND": "torch", "MPLBACKEND": "module://other"})
    for notes in (2, 0):  # none in the processes that this one starts
        with quiet_imports():
            expected = {"KERAS_BACKEND": "tensorflow", "MPLBACKEND": "agg", "KERAS_HOME": os.devnull}
            assert os.environ.items() >= expected.items()
            assert not logging.getLogger("tensorflow").isEnabledFor(logging.WARNING)
        assert len(capsys.readouterr().err.splitlines()) == notes


def test_optional_packages_are_hidden_during_the_import_of_keras_alone(monkeypatch):
    matplotlib, found = object(), {}
    for name in ("keras", "sklearn"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", matplotlib)  # imported before

    def import_module(name):
        found[name] = sys.modules["sklearn"], sys.modules["matplotlib"]

    monkeypatch.setattr(importlib, "import_module", import_module)
    with quiet_imports():
        assert found == {"keras": (None, matplotlib)}
        assert "sklearn" not in sys.modules and sys.modules["matplotlib"] is matplotlib


def test_the_exit_code_of_a_command_is_returned():
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 7) == 7


def test_a_closed_pipe_ends_a_command_quietly():
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()
        assert process.wait(timeout=120) == 141
        assert process.stderr.read() == ""


def test_available_cores_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5}, raising=False)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == 7
