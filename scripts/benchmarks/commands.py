"""Commands of this repository as work to be timed; imports no TensorFlow."""

import subprocess
import sys
import tempfile

from scripts.benchmarks.harness import ROOT, Work


def help_text() -> Work:
    return Work(lambda: run("train.py", "--help"))


def tensorflow_import() -> Work:
    return Work(lambda: run("-c", "import tensorflow"))


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)


def first_step(*arguments: str) -> Work:
    """From the command to what it prints of its first step."""

    def call():
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "train.py", f"output_dir={directory}", *arguments]
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            with subprocess.Popen(command, cwd=ROOT, **output) as process:
                line = ""
                for line in process.stdout:
                    if line.startswith("step 1/"):
                        process.kill()
                        return line
                raise RuntimeError(f"{' '.join(command)} ended before its first step: {line}")

    return Work(call)
