import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import ConfigError
from data.errors import DataError
from scripts.failures import exit_code_of
from training.errors import DivergedError, RunError

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = """
import sys
from scripts.failures import exit_code_of
def write():
    while True:
        print("a line")
sys.exit(exit_code_of(write))
"""


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("one\ntwo"), 2, "config error: one\nconfig error: two\n"),
        (DataError("no text"), 2, "error: no text\n"),
        (RunError("no run"), 2, "error: no run\n"),
        (DivergedError("step 3", good_step=2), 1, "diverged: step 3\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_user_can_put_right_is_told_in_a_line(error, code, told, capsys):
    def fail():
        raise error

    assert exit_code_of(fail) == code
    assert capsys.readouterr().err == told


def test_an_error_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 / 0)


def test_the_code_of_a_command_is_passed_on():
    assert exit_code_of(lambda: None) == 0
    assert exit_code_of(lambda: 7) == 7


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "a line\n"
        process.stdout.close()
        assert process.wait(timeout=120) == 141
        assert process.stderr.read() == ""
