"""Runs every command on wrong inputs: `python -m tests.robustness.fuzz`.

A process that has imported TensorFlow forks a child for each input of `inputs.py`, in a fresh copy of tiny
runs and data. No input may give a traceback, hang, lose a file, leave a run directory behind, or change the
result of a damaged run without a note; few may end in an internal error, and none of named_inputs.txt. The
accepted values that may change a result are printed, to be judged by a person. `--only generate` tries one
command, `--find scaling` the inputs that contain a text.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
import importlib
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from configs import sweep
from system.command import quiet_imports, run_command
from tests.robustness.inputs import COMMANDS, PASSKEY, ROOT, SUCCEEDING, TEXT, VIT, Case, all_cases, modules

LIMIT_SECONDS, LIMIT_LINES, LIMIT_MEMORY = 30, 25, 8 << 30
MOST_INTERNAL_ERRORS = 0.02  # of all inputs
IMPORTS = "runs.run runs.evaluate_runs runs.evaluate_windows runs.evaluate_passkey runs.exports"
IMPORTS += " runs.attention_figure matplotlib.backends.backend_agg"
FAILURES = ["traceback", "hang", "signal", "files lost", "left behind", "raw control characters"]
FAILURES += ["many lines", "changed silently", "internal error of a named input"]
RUNS = ((TEXT, "lm"), (TEXT, "half"), (VIT, "vit"), (PASSKEY, "passkey"))
OWN_FILES = re.compile(r"(cache|home|tmp)/|outputs/.*(\.png|\.lock|\.partial)$")
Outcome = tuple[object, set[str]]  # result of a command, and its notes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the chosen values (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="number of inputs at a time (default 2)")
    parser.add_argument("--only", default="", help="only commands that begin with this text")
    parser.add_argument("--find", default="", help="only inputs that contain this text")
    options = parser.parse_args(arguments)
    cases = [case for case in all_cases(options.seed) if case.command.startswith(options.only)]
    cases = [case for case in cases if options.find in " ".join([*case.arguments, case.damage, case.shell])]
    import_commands()
    counts = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        base = Path(folder, "base")
        prepare_runs(base, Path(folder, "output"))
        usual: dict[str, Outcome] = {}
        for command in SUCCEEDING:
            kind, line, usual[command] = try_case(Case(command, COMMANDS[command]), base, {})
            if kind != "accepted":
                raise RuntimeError(f"{kind}: {line}")
        with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
            tried = pool.imap_unordered(functools.partial(try_case, base=base, usual=usual), cases)
            for kind, line, _ in tried:
                counts[kind] += 1
                if kind not in ("refused", "same result", "help"):
                    print(f"{counts.total()}/{len(cases)} {kind}: {line}", flush=True)
    print("\n".join(f"{count:5} {kind}" for kind, count in counts.most_common()))
    too_many = counts["internal error"] > MOST_INTERNAL_ERRORS * len(cases)
    return int(too_many or any(counts[kind] for kind in FAILURES))


def import_commands() -> None:
    """Imports all commands; executes no operation, since the threads of TensorFlow do not survive a fork."""
    with quiet_imports():
        for name in (*modules().values(), *IMPORTS.split()):
            importlib.import_module(name)
    importlib.import_module("tensorflow").config.run_functions_eagerly(True)  # compiling takes longer
    sweep.run_job = fork_job


def fork_job(command: list[str]) -> int:
    """Runs a job of a sweep."""
    if (process := os.fork()) == 0:
        call("train", command[2:])
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def call(module: str, arguments: list[str]) -> None:
    """Ends this process with the exit code of a command."""
    code, main = 1, importlib.import_module(module).main
    try:
        code = run_command(lambda: main(arguments))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def try_case(case: Case, base: Path, usual: dict[str, Outcome]) -> tuple[str, str, Outcome]:
    """Kind of result, a line about it, and the outcome of a case, in a copy of the prepared files."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        work, output = Path(folder, "work"), Path(folder, "output")
        shutil.copytree(base, work, symlinks=True)
        subprocess.run(["bash", "-c", case.damage], cwd=work, stderr=subprocess.DEVNULL)
        before = contents(work)
        code = run_case(case, work, output)
        text, after = output.read_text(encoding="utf-8", errors="replace"), contents(work)
        subprocess.run(["chmod", "-R", "u+rwx", work], stderr=subprocess.DEVNULL)
    kind, outcome = judge(case, code, text, before, after), find_outcome(case, text, after)
    if kind == "accepted":
        value, notes = usual.get(case.command, (None, set()))
        silently = case.same and outcome[1] <= notes
        kind = "same result" if outcome[0] == value else "changed silently" if silently else kind
    others = {*TEXT, *VIT, *PASSKEY} if case.command == "train" else ()
    command = shlex.join([case.command, *(word for word in case.arguments if word not in others)])
    return kind, f"{command} {case.shell} [{case.damage}] {text[-200:]!r}", outcome


def run_case(case: Case, work: Path, output: Path) -> int | None:
    """Exit code of a command in a child process, or minus the number of a signal; None after the limit."""
    deadline = time.monotonic() + LIMIT_SECONDS * max(1.0, os.getloadavg()[0] / os.cpu_count())
    if (process := os.fork()) == 0:
        try:
            become(case, work, output)
        finally:
            os._exit(99)
    done = status = 0
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
        done, status = os.waitpid(process, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not done:
        os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) if done else None


def become(case: Case, work: Path, output: Path) -> None:
    """Turns this process into the command of a case."""
    os.setsid()
    os.chdir(work)
    # Without capabilities, root cannot read what permissions forbid.
    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_MEMORY, LIMIT_MEMORY))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
    tempfile.tempdir = None
    os.environ |= {"HOME": str(work / "home"), "TMPDIR": str(work / "tmp"), "PYTHONPATH": str(ROOT)}
    module = modules()[case.command.split()[0]]
    if case.shell:
        words = ["bash", "-c", case.shell, "", sys.executable, "-m", module, *case.arguments]
        os.execv("/bin/bash", words)
    sys.argv = [str(ROOT / "train.py"), *case.arguments]
    call(module, case.arguments)


def judge(case: Case, code: int | None, text: str, before: dict, after: dict) -> str:
    """Kind of result, without a comparison with the usual one."""
    if code is None:
        return "accepted" if " ETA " in text else "hang"
    if code < 0:
        return "signal"
    if "Traceback (most recent call last)" in text:
        return "traceback"
    own = own_files(case) if code == 0 else None
    lost = [path for path, value in before.items() if after.get(path) != value]
    lost = [path for path in lost if not OWN_FILES.match(path) and path not in case.arguments]
    if any(not (own and path.startswith(own)) for path in lost):
        return "files lost"
    if re.search("[\x00-\x08\x0e-\x1f\u202e]", text):
        return "raw control characters"
    if code == 70:
        return "internal error of a named input" if case.is_named else "internal error"
    if code == 0:
        return "help" if "--help" in case.arguments else "accepted"
    new = {path for path in after.keys() - before.keys() if path.startswith("outputs/")}
    if code == 2 and any(path.endswith("config.yaml") for path in new):
        return "left behind"
    return "many lines" if text.count("\n") > LIMIT_LINES and "usage: " not in text else "refused"


def own_files(case: Case) -> str | None:
    """Directory of the run that a case trains."""
    names = [word[5:].strip("'") for word in case.arguments if word.startswith("name=")][-1:]
    return f"outputs/{''.join(names)}/" if case.command.startswith("train") else None


def find_outcome(case: Case, text: str, after: dict) -> Outcome:
    """Weights of a training, or printed lines without timings; and the notes."""
    lines = text.splitlines()
    notes = {line for line in lines if line.startswith(("note:", "skipped"))}
    if own := own_files(case):
        data = [path for path in after if path.startswith(f"{own}checkpoints") and ".data-" in path]
        return (after[max(data)] if data else None), notes
    others = "\n".join(line for line in lines if line not in notes)
    return re.sub(r"\d[\d.,]* (m?s|\w+/s)\b", "", others), notes


def prepare_runs(path: Path, output: Path) -> None:
    """Data and tiny runs; the run `half` lacks its last checkpoint."""
    prepare_data(path)
    for arguments, name in RUNS:
        if (code := run_case(Case("train", [*arguments, f"name={name}"]), path, output)) != 0:
            raise RuntimeError(f"exit code {code}: {output.read_text()}")
    shutil.rmtree(path / "outputs/half/checkpoints/step-00000002")
    (path / "outputs/half/summary.json").unlink()


def prepare_data(path: Path, *, count: int = 8) -> None:
    """Folders of texts and of images in two classes, `count` each."""
    for name in ("home", "tmp", "outputs", "text", "images/a", "images/b"):
        (path / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        words = " ".join(f"word{value}" for value in generator.integers(0, 50, 60))
        (path / f"text/{number}.txt").write_text(f"Text {number}: {words}\n")
        for label in "ab":
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path / f"images/{label}/{number}.png")


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file, or target of a link, by path."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
