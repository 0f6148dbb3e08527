"""What the documents say is so: their snippets run, their links lead somewhere, their commands are read."""

import argparse
import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from configs.help import USAGE
from configs.schema import combinations, compose, parse_config
from docs.figures.catalogue import FIGURES
from rope import RotaryEmbedding
from rope.rotation import LAYOUTS
from rope.scaling import SCALINGS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "rope" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPLAINED, TOUR = (ROOT / "docs" / f"{name}.md" for name in ("rope_explained", "tour"))
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
VERBS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if "__main__" in path.read_text())
PLACE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")


def relative(path):
    return path.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    return [(language, code) for language, code in BLOCK.findall(TEXTS[page]) if language in languages]


def run_snippets(page):
    """The names that the snippets of a page define; those that begin with a file are not to be run."""
    names = {}
    for number, (_, code) in enumerate(blocks(page, "python")):
        if not PLACE.match(code):
            exec(compile(code, f"{relative(page)}, snippet {number}", "exec"), names)
    return names


@pytest.mark.parametrize("page", [EXPLAINED, TOUR], ids=relative)
def test_the_snippets_of_a_page_run_in_order(page, monkeypatch):
    tf.random.set_seed(0)
    assert len(run_snippets(page)) > 10


def test_the_rotation_by_hand_is_that_of_the_package():
    _, code = blocks(EXPLAINED, "python")[-1]
    (function,) = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    assert len(ast.unparse(function).splitlines()) - 1 <= 10  # without its docstring
    names = {"np": np, "tf": tf}
    exec(ast.unparse(function), names)
    for shape, theta in (((3, 7, 4), 10_000.0), ((2, 3, 50, 32), 100.0)):
        x = tf.random.stateless_normal(shape, (1, 2))
        rotated = RotaryEmbedding(shape[-1], theta=theta).rotate_queries_or_keys(x)
        # float32 angles up to 50 rad
        np.testing.assert_allclose(names["rotate_by_hand"](x, theta), rotated, atol=5e-5)


def test_each_figure_of_the_page_stands_above_the_command_that_draws_it():
    from scripts.visualize import parse

    found = re.findall(
        r"!\[.+?\]\(rope_explained/(\w+)\.png\)\n\n```\npython -m scripts\.visualize (.+)\n```",
        TEXTS[EXPLAINED],
    )
    assert [name for name, _ in found] == list(FIGURES)
    assert TEXTS[EXPLAINED].count("![") == len(found)
    for name, command in found:
        options = vars(parse(shlex.split(command)))
        assert options.pop("figure") == name
        assert "output" not in options
        assert options == dict(FIGURES[name].options)


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_inside_the_repository_lead_somewhere(page):
    for match in LINK.finditer(BLOCK.sub("", TEXTS[page])):
        target = match[1] or match[2]
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and ROOT in (file, *file.parents), target
        assert not anchor or anchor in anchors(file), target


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands_in(text):
    """Command lines in blocks without a language, and in backquotes."""
    lines = [line for language, code in BLOCK.findall(text) if not language for line in code.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    for line in lines:
        line = re.sub(r"^(?:\$ )?", "", re.split(r"\s{2,}|\s+#", line.strip())[0])
        if re.match(r"(python|make|tensorboard|source|pip) ", line):
            yield line


def docstrings():
    for path in sorted((ROOT / "scripts").glob("*.py")):
        yield relative(path), ast.get_docstring(ast.parse(path.read_text())) or ""
    yield "train.py", ast.get_docstring(ast.parse((ROOT / "train.py").read_text()))
    for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml")):
        yield relative(path), "`" + path.read_text().splitlines()[1].removeprefix("# ") + "`"
    for line in USAGE.splitlines():
        if line.startswith("  python"):
            yield "--help", "`" + re.split(r"\s{2,}", line.strip())[0] + "`"


COMMANDS = sorted(
    {command for text in TEXTS.values() for command in commands_in(text)}
    | {command for _, text in docstrings() for command in commands_in(text)}
)


def test_commands_are_found():
    assert len(COMMANDS) > 40
    assert {"python train.py", "make train", "python train.py experiment=vit"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_read(command, monkeypatch, capsys):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(argument in targets or "=" in argument for argument in arguments)
    elif arguments[0] == "train.py":
        read_training(arguments[1:], monkeypatch)
    elif arguments[0] == "-m" and arguments[1].startswith("scripts."):
        read_script(arguments[1], arguments[2:])
    else:
        # The programs of others, in examples of this page alone.
        assert (
            program in ("tensorboard", "source", "pip")
            or arguments[:1] == ["-c"]
            or arguments[:2] == ["-m", "pytest"]
        )


def read_training(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    of_the_tour = {"ntk_mixed", "json_lines", "shared"}
    values = [argument for argument in arguments if "=" in argument]
    if not of_the_tour & {value.partition("=")[2] for value in values}:
        for chosen in combinations(values):
            parse_config(compose(list(chosen)))
    flags = [argument for argument in arguments if argument not in values]
    assert flags in ([], ["--help"], ["-m"], ["--cfg", "job"])


def read_script(module, arguments):
    assert module.removeprefix("scripts.") in VERBS
    if not arguments:
        return
    parse = importlib.import_module(module).parse
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            parse(arguments)
    else:
        assert isinstance(parse(arguments), argparse.Namespace)


@pytest.mark.parametrize("verb", VERBS)
def test_each_script_is_told_of(verb):
    assert any(f"python -m scripts.{verb}" in text for text in TEXTS.values())


def test_what_is_different_here_is_so():
    rows = dict(
        re.findall(
            r"^\| ([^|]+) \| ([^|]+) \|", TEXTS[ROOT / "README.md"].partition("## What is different")[2], re.M
        )
    )
    assert rows["scalings"].split(", ") == [name for name in SCALINGS if name != "default"]
    assert all(layout in rows["pair layouts"] for layout in LAYOUTS)
    rotary = RotaryEmbedding(8)
    with pytest.raises(TypeError, match="bfloat16"):
        rotary(tf.range(4, dtype=tf.bfloat16))
    assert rotary(tf.range(4)).dtype == tf.float32
    with pytest.raises(ValueError, match="max_freq has no effect"):
        RotaryEmbedding(8, max_freq=20.0)


def test_the_readme_and_the_credits_name_the_same_papers():
    text = TEXTS[ROOT / "README.md"]
    listed = re.findall(r"arXiv ([\d.]{10})", text.partition("## Credits")[2])
    assert set(re.findall(r"arXiv:([\d.]{10})", text)) == set(listed)


@pytest.fixture(scope="module")
def changed_house(tmp_path_factory):
    """A copy of the repository with the edits of the tour."""
    house = tmp_path_factory.mktemp("tour") / "house"
    ignored = shutil.ignore_patterns(".*", "outputs", "__pycache__", "tests")
    shutil.copytree(ROOT, house, ignore=ignored)
    for language, code in blocks(TOUR, "python", "yaml", "diff"):
        if language == "diff":
            edit(house, code)
        elif place := PLACE.match(code):
            file = house / place[1]
            before = file.read_text() if file.exists() else ""
            file.write_text(before + code[place.end() :])
    return house


def edit(house, diff):
    """Replaces the lines of a diff without `+` by those without `-`; they stand in the file once."""
    header, *lines = diff.splitlines()
    file = house / header.removeprefix("--- ")
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] != other) for other in "+-")
    text = file.read_text()
    assert text.count(old) == 1, header
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("title", ["Add a scaling", "Add a data set", "Add a model"])
def test_what_the_tour_adds_works(title, changed_house):
    section = TEXTS[TOUR].partition(f"## {title}\n")[2].partition("\n## ")[0]
    (commands,) = (code for language, code in BLOCK.findall(section) if not language)
    cache = {"XDG_CACHE_HOME": str(changed_house / "cache"), "PYTHONPATH": str(changed_house)}
    for command in commands.splitlines():
        command = re.sub("^python", shlex.quote(sys.executable), command)
        done = subprocess.run(
            command, shell=True, cwd=changed_house, env=os.environ | cache, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    name = re.search(r"name=(\w+)", commands)[1]
    summary = json.loads((changed_house / "outputs" / name / "summary.json").read_text())
    assert summary["step"] == 2
    if name == "shared":
        assert summary["parameters"] < 300_000  # of 885,888 with four blocks


def test_the_scaling_of_the_tour_is_the_one_that_it_describes(changed_house):
    scaling = {"rope_type": "ntk_mixed", "factor": 4.0}
    code = f"import rope; print(*rope.RotaryEmbedding(8, scaling={scaling}).frequencies)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=changed_house, capture_output=True, text=True, check=True
    )
    expected = [10**-i / 4 ** (((i + 1) / 4) ** 0.625) for i in range(4)]
    np.testing.assert_allclose([float(number) for number in done.stdout.split()], expected, rtol=1e-12)
