"""Fixtures of the tests of the commands."""

import pytest

from system.command import run_command


@pytest.fixture
def run(capsys):
    """`run(main, *arguments)`: exit code, standard output and lines of standard error of a command."""

    def run(main, *arguments):
        capsys.readouterr()
        code = run_command(lambda: main([str(argument) for argument in arguments]))
        output = capsys.readouterr()
        return code, output.out, output.err.splitlines()

    return run
