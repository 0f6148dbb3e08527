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
import hashlib
import importlib
import json
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
from collections.abc import Iterator, Sequence
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


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the chosen values (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="number of inputs at a time (default 2)")
    parser.add_argument("--only", default="", help="only commands that begin with this text")
    parser.add_argument("--find", default="", help="only inputs that contain this text")
    parser.add_argument("--output", type=Path, default=Path("fuzz.jsonl"), help="results, one in each line")
    options = parser.parse_args(arguments)
    cases = [case for case in all_cases(options.seed) if case.command.startswith(options.only)]
    cases = [case for case in cases if options.find in " ".join([*case.arguments, case.damage, case.shell])]
    import_commands()
    results = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, open(options.output, "w") as file:
        slots = [Slot(Path(folder, str(number))) for number in range(options.jobs)]
        for result in run_all(cases, slots):
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            if result["kind"] in FAILURES or len(results) % 50 == 0:
                print(f"{len(results)}/{len(cases)} {result['kind']}: {result['command'][:200]}", flush=True)
    counts = Counter(result["kind"] for result in results)
    print("\n".join(f"{count:5} {kind}" for kind, count in counts.most_common()))
    for result in sorted(results, key=lambda result: result["kind"]):
        if result["kind"] not in ("refused", "same result", "help"):
            kind, command, damage, output = (result[key] for key in ("kind", "command", "damage", "output"))
            print(f"{kind}: {command} [{damage}] {output[-200:]!r}")
    too_many = counts["internal error"] > MOST_INTERNAL_ERRORS * len(results)
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


class Slot:
    """A directory in which one input at a time is tried, on a copy of the prepared files."""

    def __init__(self, path: Path, runs: Sequence[tuple[list[str], str]] = RUNS):
        self.work, self.base, self.output = path / "work", path / "base", path / "output"
        self.undamaged = [Case(command, COMMANDS[command]) for command in SUCCEEDING]
        self.usual: dict[str, tuple[object, set[str]]] = {}  # results and notes of the undamaged commands
        prepare_data(self.base)
        for arguments, name in runs:
            if (code := self.finish(Case("train", [*arguments, f"name={name}"]))) != 0:
                raise RuntimeError(f"exit code {code}: {self.text()}")
            shutil.rmtree(self.base)
            shutil.copytree(self.work, self.base, symlinks=True)
        shutil.rmtree(self.base / "outputs/half/checkpoints/step-00000002", ignore_errors=True)
        (self.base / "outputs/half/summary.json").unlink(missing_ok=True)
        self.case = None

    def start(self, case: Case) -> None:
        if self.work.exists():
            subprocess.run(["chmod", "-R", "u+rwx", self.work], stderr=subprocess.DEVNULL)
            shutil.rmtree(self.work)
        shutil.copytree(self.base, self.work, symlinks=True)
        if case.damage:
            subprocess.run(["bash", "-c", case.damage], cwd=self.work, stderr=subprocess.DEVNULL)
        self.case, self.before, self.started = case, contents(self.work), time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            try:
                self.become(case)
            finally:
                os._exit(99)

    def finish(self, case: Case) -> int | None:
        """Runs a case to its end and returns its exit code."""
        self.start(case)
        while (code := self.poll()) == "running":
            time.sleep(0.01)
        return code

    def become(self, case: Case) -> None:
        """Turns this process into the command of a case."""
        os.setsid()
        os.chdir(self.work)
        # Without capabilities, root cannot read what permissions forbid.
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_MEMORY, LIMIT_MEMORY))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
        tempfile.tempdir = None
        folders = {"HOME": str(self.work / "home"), "TMPDIR": str(self.work / "tmp")}
        os.environ |= folders | {"PYTHONPATH": str(ROOT)}
        module = modules()[case.command.split()[0]]
        if case.shell:
            words = ["bash", "-c", case.shell, "", sys.executable, "-m", module, *case.arguments]
            os.execv("/bin/bash", words)
        sys.argv = [str(ROOT / "train.py"), *case.arguments]
        call(module, case.arguments)

    def poll(self) -> int | str | None:
        """Exit code or minus the number of a signal; None after the time limit; or "running"."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        limit = LIMIT_SECONDS * max(1.0, os.getloadavg()[0] / os.cpu_count())
        if not done and time.monotonic() - self.started < limit:
            return "running"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        if not done:
            os.waitpid(self.process, 0)
            return None
        return os.waitstatus_to_exitcode(status)

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def result(self, code: int | None) -> dict:
        case, seconds = self.case, round(time.monotonic() - self.started, 1)
        usual = {*TEXT, *VIT, *PASSKEY} if case.command == "train" else ()
        command = shlex.join([case.command, *(word for word in case.arguments if word not in usual)])
        facts = {"kind": self.judge(code), "code": code, "seconds": seconds, "damage": case.damage}
        return facts | {"command": f"{command} {case.shell}".strip(), "output": self.text()[-2_000:]}

    def judge(self, code: int | None) -> str:
        """Kind of result."""
        case, text, after = self.case, self.text(), contents(self.work)
        if code is None:
            return "accepted" if " ETA " in text else "hang"
        if code < 0:
            return "signal"
        if "Traceback (most recent call last)" in text:
            return "traceback"
        name = [word[5:].strip("'") for word in case.arguments if word.startswith("name=")][-1:]
        own = f"outputs/{''.join(name)}/" if case.command.startswith("train") and code == 0 else None
        lost = [path for path, value in self.before.items() if after.get(path) != value]
        lost = [path for path in lost if not OWN_FILES.match(path) and path not in case.arguments]
        if lost := [path for path in lost if not (own and path.startswith(own))]:
            self.output.write_text(f"{text}\nlost: {lost}")
            return "files lost"
        if re.search("[\x00-\x08\x0e-\x1f\u202e]", text):
            return "raw control characters"
        if code == 70:
            return "internal error of a named input" if case.is_named else "internal error"
        if code != 0:
            new = {path for path in after.keys() - self.before.keys() if path.startswith("outputs/")}
            if code == 2 and any(path.endswith("config.yaml") for path in new):
                return "left behind"
            return "many lines" if text.count("\n") > LIMIT_LINES and "usage: " not in text else "refused"
        if "--help" in case.arguments:
            return "help"
        lines = text.splitlines()
        notes = {line for line in lines if line.startswith(("note:", "skipped"))}
        value = re.sub(r"\d[\d.,]* (m?s|\w+/s)\b", "", "\n".join(line for line in lines if line not in notes))
        if own:
            data = [path for path in after if path.startswith(f"{own}checkpoints") and ".data-" in path]
            value = after[max(data)] if data else None
        if self.undamaged is not None:
            self.usual[case.command] = value, notes
        usual_value, usual_notes = self.usual.get(case.command, (None, set()))
        if value == usual_value:
            return "same result"
        return "changed silently" if case.same and notes <= usual_notes else "accepted"


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


def run_all(cases: list[Case], slots: list[Slot]) -> Iterator[dict]:
    """Results of all cases; each slot begins with the undamaged commands, whose failures are results too."""
    pending = iter(cases)
    while slots:
        time.sleep(0.005)
        for slot in list(slots):
            if slot.case is not None:
                if (code := slot.poll()) == "running":
                    continue
                result = slot.result(code)
                if slot.undamaged is None or code != 0:
                    yield result
                slot.undamaged = slot.undamaged or None
            case = slot.undamaged.pop(0) if slot.undamaged else next(pending, None)
            slots.remove(slot) if case is None else slot.start(case)


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file, or target of a link, by path."""
    found = {}
    for directory, names, files in os.walk(folder):
        for path in (Path(directory, name) for name in (*names, *files)):
            if path.is_symlink():
                found[str(path.relative_to(folder))] = os.readlink(path)
            elif path.is_file():
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
