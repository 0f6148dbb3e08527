import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data.tokenizer import BYTES
from models.sampling import Sampler, SamplingOptions
from scripts.generate import main, print_texts
from system.text import escape

CONTEXT = 24
FACTS = r"seed (\d+): (\d+) tokens"


@pytest.fixture(scope="module")
def run_directory(untrained_text):
    return untrained_text[0]


@pytest.fixture(scope="module")
def sampler(untrained_text):
    return Sampler(untrained_text[2])


@pytest.fixture
def traced_once(sampler, monkeypatch):
    """Makes the command use one sampler, which traces its functions once; its model has the same weights."""
    monkeypatch.setattr("models.sampling.Sampler", lambda model, **options: sampler)


@pytest.fixture(scope="module")
def continued(sampler):
    """`continued(prompt, length, **options)`: the expected output of the command."""

    def continued(prompt, length, **options):
        options = SamplingOptions(**({"temperature": 0.8, "stop_tokens": BYTES.stop_tokens} | options))
        steps = sampler.generate([prompt.encode()], length, options)
        added = bytes(int(token) for (token,) in steps if token >= 0)
        return escape((prompt.encode() + added).decode(errors="replace")) + "\n"

    return continued


def test_a_prompt_is_printed_and_continued_by_the_model(eagerly, run, run_directory, continued):
    code, out, (facts,) = run(main, run_directory, "--prompt", "def née", "--length", 12)
    seed, count = re.fullmatch(FACTS, facts).groups()
    assert (code, out) == (0, continued("def née", 12, seed=int(seed)))
    assert int(count) <= 12  # the model may end the text
    _, _, (other,) = run(main, run_directory, "--prompt", "def née", "--length", 1)
    assert not other.startswith(f"seed {seed}:")


def test_each_sampling_option_has_an_effect(traced_once, run, run_directory, continued):
    options = {"temperature": 2.0, "top_k": 50, "top_p": 0.7, "seed": 3}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    _, out, _ = run(main, run_directory, "--prompt", "ab", "--length", 22, *arguments)
    assert out == continued("ab", 22, **options)
    for name in options:
        assert out != continued("ab", 22, **{key: options[key] for key in options if key != name})


def test_samples_of_one_prompt_differ_and_are_printed_as_json(traced_once, run, run_directory, continued):
    options = ("--prompt", "ab\x1b", "--num-samples", 2, "--seed", 5, "--length", 9, "--json")
    code, out, _ = run(main, run_directory, *options)
    rows = json.loads(out)
    assert code == 0 and "\x1b" not in out
    assert [row["seed"] for row in rows] == [5, 6]
    texts = [continued("ab\x1b", 9, seed=seed) for seed in (5, 6)]
    assert [escape(row["prompt"] + row["text"]) + "\n" for row in rows] == texts
    assert texts[0] != texts[1]


def test_prompts_are_read_from_standard_input_and_files(
    traced_once, run, run_directory, continued, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"def\n\n")))
    (tmp_path / "prompt.txt").write_bytes(b"a\xffb\n")
    files = ("--prompt-file", tmp_path / "prompt.txt")
    _, out, _ = run(main, run_directory, "--prompt", "-", *files, "--length", 3, "--json")
    assert [row["prompt"] for row in json.loads(out)] == ["def\n", "a\ufffdb"]
    with pytest.raises(SystemExit, match="2"):
        run(main, run_directory, "--prompt-file", tmp_path / "none")


def test_prompts_are_asked_for_on_a_terminal(sampler, run, run_directory, continued, monkeypatch):
    samplers, lines = [], iter(["def ", "", "x" * (CONTEXT + 1), "endless", "ab"])

    def generate(prompts, *options):
        if prompts == [list(b"endless")]:
            raise KeyboardInterrupt
        return sampler.generate(prompts, *options)

    def type_line(prompt):
        for line in lines:
            return line
        raise EOFError

    interrupted = SimpleNamespace(generate=generate, capacity=CONTEXT)
    monkeypatch.setattr("models.sampling.Sampler", lambda *_, **options: samplers.append(1) or interrupted)
    monkeypatch.setattr("builtins.input", type_line)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    code, out, errors = run(main, run_directory, "--length", 7, "--seed", 0)
    assert (code, out) == (0, continued("def ", 7) + "\n" + continued("ab", 7) + "\n")
    assert errors[1:] == [
        "seed 0: 7 tokens",
        f"error: a prompt has {CONTEXT + 1} tokens, but must have 1 to {CONTEXT}.",
        "seed 0: 7 tokens",
    ]
    assert len(samplers) == 1


@pytest.mark.parametrize(("overflow", "added"), [("slide", 30), ("stop", CONTEXT + 1 - 4)])
def test_a_text_longer_than_the_context_is_noted(traced_once, run, run_directory, continued, overflow, added):
    options = ("--length", 30, "--temperature", 0, "--overflow", overflow)
    code, out, (note, facts) = run(main, run_directory, "--prompt", "def ", *options)
    assert (code, out) == (0, continued("def ", added, temperature=0))
    assert f"note: 4 tokens of prompt and 30 more exceed the context of {CONTEXT}" in note
    assert re.fullmatch(FACTS, facts)[2] == str(added)


def test_characters_are_printed_when_their_last_byte_is_generated(capsys):
    text, printed = "é→🙂x", []

    def steps():
        for byte in text.encode():
            printed.append(capsys.readouterr().out)
            yield np.array([byte])

    print_texts([np.frombuffer(b"ab", np.uint8)], steps(), BYTES, seed=0)
    printed.append(capsys.readouterr().out)
    assert printed == ["ab", "", "é", "", "", "→", "", "", "", "🙂", "x\n"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--prompt", ""], f"a prompt has 0 tokens, but must have 1 to {CONTEXT}."),
        (["--prompt", "a", "--top-p", "1.5"], "top_p must be <= 1, got 1.5"),
        ([], "no prompt; use --prompt TEXT, --prompt-file FILE, or --prompt - for standard input"),
    ],
)
def test_invalid_input_is_reported_in_one_line(traced_once, run, run_directory, arguments, problem):
    assert run(main, run_directory, *arguments) == (2, "", [f"error: {problem}"])


def test_every_command_can_be_started_as_a_file():
    files = sorted((Path(__file__).parents[2] / "scripts").glob("[a-z]*.py"))
    options = {"cwd": "/", "stdout": subprocess.PIPE}
    running = [subprocess.Popen([sys.executable, file, "--help"], **options) for file in files]
    for file, process in zip(files, running, strict=True):
        assert f"python -m scripts.{file.stem}".encode() in process.communicate()[0]
        assert process.returncode == 0
