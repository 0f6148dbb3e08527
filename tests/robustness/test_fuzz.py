"""The fuzz of the commands covers all of them and tells apart what can go wrong."""

import os
import time
from pathlib import Path

from scripts import generate
from tests.robustness import fuzz
from tests.robustness.inputs import COMMANDS, Case, all_cases, modules


def test_inputs_cover_every_command():
    cases = all_cases(seed=3)
    assert len(cases) >= 500
    assert {case.command.split()[0] for case in cases} == modules().keys()
    assert {case.command for case in cases} >= COMMANDS.keys()


def raise_error():
    raise ZeroDivisionError("x")


BEHAVIOURS = {
    "refused": lambda: 2,
    "accepted": lambda: print("words"),
    "internal error": raise_error,
    "traceback": lambda: os.environ.update(HYDRA_FULL_ERROR="1") or raise_error(),
    "hang": lambda: time.sleep(60),
    "signal": lambda: os.kill(os.getpid(), 9),
    "files lost": lambda: Path("text/0.txt").unlink(),
    "left behind": lambda: Path("outputs/config.yaml").touch() or 2,
    "raw control characters": lambda: print("\x1b[31m"),
    "many lines": lambda: print("\n" * 99) or 2,
}


def test_results_are_told_apart(tmp_path, monkeypatch):
    fuzz.prepare_data(tmp_path)
    for kind, behave in BEHAVIOURS.items():
        monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 0.1 if kind == "hang" else 60)
        monkeypatch.setattr(generate, "main", lambda _, behave=behave: behave())
        assert fuzz.try_case(Case("generate", []), tmp_path, {})[0] == kind
