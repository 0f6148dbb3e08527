"""Output of commands: unencodable and control characters, full disks and closed streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import argparse, sys
from system.command import quiet_imports, run_command
from system.text import print_error, print_line, print_result
def command():
    with quiet_imports():
        pass
    if "--help" in sys.argv:
        argparse.ArgumentParser().parse_args()
    for _ in range(2):
        (print_result if "result" in sys.argv else print_line)("é \\x1b[2J \\u202e \\u200d\\n\\tend")
    print_error("ö \\x07 done")
sys.exit(run_command(command))
"""


def run(redirection, argument, **environment):
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-c", COMMAND, argument],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("encoding", "letter", "joiner"), [("utf-8", "é", "\u200d"), ("ascii", r"\xe9", r"\u200d")]
)
def test_control_and_unencodable_characters_are_escaped(encoding, letter, joiner):
    done = run("", "line", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout == f"{letter} \\x1b[2J \\u202e {joiner}\n\tend\n" * 2
    assert done.stderr == ("ö" if encoding == "utf-8" else r"\xf6") + " \\x07 done\n"


def test_output_on_a_full_disk_is_one_line():
    done = run(">/dev/full", "line", PYTHONIOENCODING="utf-8")
    note = "note: cannot write to standard output (No space left on device); the run continues.\n"
    assert (done.returncode, done.stderr) == (0, f"{note}ö \\x07 done\n")
    for argument in ("result", "--help"):
        done = run(">/dev/full", argument)
        error = "error: cannot write to standard output (No space left on device)\n"
        assert (done.returncode, done.stderr) == (2, error)


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_allowed(redirection):
    assert run(redirection, "result").returncode == 0
