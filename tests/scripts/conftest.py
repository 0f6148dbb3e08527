"""Fixtures of the tests of the commands."""

import pytest

from system.command import run_command
from tests.run_helpers import save_untrained_text_run


@pytest.fixture(scope="session")
def untrained_text(tmp_path_factory):
    """Directory, task and model of a text run with random weights, whose checkpoint stays as it is."""
    return save_untrained_text_run(tmp_path_factory.mktemp("text"))


@pytest.fixture
def run(capsys):
    """`run(main, *arguments)`: exit code, standard output and lines of standard error of a command.

    The lines are without the notes of the checkpoints that are used.
    """

    def run(main, *arguments):
        capsys.readouterr()
        code = run_command(lambda: main([str(argument) for argument in arguments]))
        output = capsys.readouterr()
        lines = output.err.splitlines()
        return code, output.out, [line for line in lines if ": using the checkpoint of step" not in line]

    return run
