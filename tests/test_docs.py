"""The documentation is true: its snippets run, its links resolve, its commands are accepted."""

import argparse
import ast
import base64
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
import tensorflow as tf

import configs.compose
import train
from configs.compose import combinations, compose, save_config
from configs.help import USAGE
from configs.schema import parse_config
from docs import configuration
from rope.rotation import LAYOUTS
from rope.scaling import SCALINGS
from system.command import run_command

ROOT = Path(__file__).resolve().parents[1]
README, EXPLAINED, TOUR = (ROOT / name for name in ("README.md", "docs/rope_explained.md", "docs/tour.md"))
RECIPES = ROOT / "docs" / "recipes.md"
COMMANDS_PAGE, NOTEBOOK = ROOT / "docs" / "commands.md", ROOT / "docs" / "quickstart.ipynb"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "rope" / "README.md", *ROOT.glob("docs/**/*.md"), NOTEBOOK])
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE_HEADER = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")  # first line of a snippet that is a file of the tour
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py") if not path.stem.startswith("_"))
TOUR_CHOICES = {"ntk_mixed", "csv", "shared"}  # config values that exist only after the tour's edits


def read_page(page):
    """Text of a page; the cells of a notebook as code blocks, without language if they are commands."""
    text = page.read_text(encoding="utf-8")
    if page != NOTEBOOK:
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        part = "".join(cell["source"])
        if cell["cell_type"] == "code":
            language = "" if part.startswith("!") else "python"
            part = f"```{language}\n{part}\n```"
        parts.append(part)
    return re.sub("^!", "", "\n\n".join(parts), flags=re.MULTILINE)


TEXTS = {page: read_page(page) for page in PAGES}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    found = BLOCK.findall(TEXTS[page])
    return [(language, textwrap.dedent(code)) for language, code in found if language in languages]


LEAST_SNIPPETS = {EXPLAINED: 6, TOUR: 6, RECIPES: 1}


@pytest.mark.parametrize("page", LEAST_SNIPPETS, ids=relative)
def test_snippets_of_a_page_run_in_order(page, eagerly):
    tf.random.set_seed(0)
    snippets = [code for _, code in blocks(page, "python")]
    assert len(snippets) >= LEAST_SNIPPETS[page]
    names = {}
    for number, code in enumerate(snippets):
        if not FILE_HEADER.match(code):
            exec(compile(code, f"{relative(page)}, snippet {number}", "exec"), names)


def test_each_figure_of_the_explanation_is_shown_once():
    shown_figures = re.findall(r"!\[[^\]]+\]\(rope_explained/(\w+)\.png\)", TEXTS[EXPLAINED])
    assert sorted(shown_figures) == sorted(path.stem for path in (ROOT / "docs/rope_explained").glob("*.png"))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_inside_the_repository_resolve(page):
    for target in LINK.findall(BLOCK.sub("", TEXTS[page])):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and ROOT in (file, *file.parents), target
        assert not anchor or anchor in anchors(file), target


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


SHELLS = ("", "sh", "bash", "console")  # languages of code blocks with commands
TEXT_BLOCKS = (
    "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}",
    "train.py        entry point",
)  # a sample, and the repository layout
INLINE_COMMAND = re.compile(r"(python3?|make|tensorboard|source|pip|wandb|srun|\.ci/run|\S*/python3?)( |$)")
# Beginnings of commands that no test runs or parses, and the reason.
NOT_RUN = {
    "pip install": "downloads packages",
    "source .venv/bin/activate": "`make train` creates the environment",
    "tensorboard --logdir": "serves until it is stopped",
    "wandb sync": "needs an account",
    ".ci/run": "runs all tests",
    "python -c": "the slow test of the tour runs it",
    "export HOSTS": "needs Slurm",
    "srun bash": "needs Slurm",
}


def commands_in(text):
    """Every line of the code blocks with commands, and the commands in inline code."""
    blocks = [textwrap.dedent(code) for language, code in BLOCK.findall(text) if language in SHELLS]
    lines = [line for code in blocks if not code.startswith(TEXT_BLOCKS) for line in code.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    lines += [code for code in inline if INLINE_COMMAND.match(code) and code != "make"]
    for line in lines:
        line = re.split(r"\s{2,}|(?:^|\s+)#", line.strip().removeprefix("$ "))[0]
        line = re.sub(r"^(\w+=\S+ )+", "", line)  # environment variables
        if line:
            yield line.rstrip("'") if line.count("'") == 1 else line


def texts_outside_the_pages():
    """Module docstrings of commands, first lines of experiments, and the usage lines of `--help`."""
    for path in [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]:
        yield ast.get_docstring(ast.parse(path.read_text())) or ""
    for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml")):
        yield f"`{path.read_text().splitlines()[1].removeprefix('# ')}`"
    for line in USAGE.splitlines():
        if line.startswith("  python"):
            command, *_ = re.split(r"\s{2,}", line.strip())
            yield f"`{command}`"


# The changelog names commands of earlier versions.
PRESENT = [text for page, text in TEXTS.items() if page.name != "CHANGELOG.md"]
COMMANDS = sorted({line for text in (*PRESENT, *texts_outside_the_pages()) for line in commands_in(text)})


def test_commands_are_found_and_each_reason_belongs_to_one():
    assert len(COMMANDS) > 40
    assert {"python train.py", "make train", "python train.py experiment=vit"} <= set(COMMANDS)
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for command in COMMANDS), beginning


@pytest.fixture
def parents(monkeypatch, tmp_path):
    """Configs in place of those of the parents that the pages name, such as outputs/vit."""

    def config_of(cfg):
        if not (path := tmp_path / "config.yaml").exists():
            is_vit = cfg.model.architecture == "vit"
            save_config(parse_config(compose(["experiment=vit"] if is_vit else [])), path)
        return tmp_path

    monkeypatch.setattr(configs.compose, "run_to_inherit", config_of)


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.startswith(tuple(NOT_RUN))])
def test_command_is_accepted(command, parents):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert all(argument in targets or "=" in argument for argument in arguments)
        return
    assert program == "python"
    if arguments[0] == "train.py":
        check_training(arguments[1:])
    else:
        assert arguments[0] == "-m"
        assert arguments[1].partition(".")[0] in ("scripts", "benchmarks", "tests", "docs")
        check_module(arguments[1], arguments[2:])


def run_python(command):
    """Runs `python train.py ...` or `python -m scripts.NAME ...` in this process."""
    program, *arguments = shlex.split(command.removeprefix("python ").removeprefix("-m "))
    module = importlib.import_module(program.removesuffix(".py"))
    assert run_command(lambda: module.main(arguments)) == 0


def check_training(arguments):
    values = train.parse(arguments).overrides
    if not TOUR_CHOICES & {value.partition("=")[2] for value in values}:
        for chosen in combinations(values):
            check_config(*chosen)


@functools.cache
def check_config(*overrides):
    parse_config(compose(list(overrides)))


def check_module(module, arguments):
    if importlib.util.find_spec(module).submodule_search_locations:
        module += ".__main__"
    assert importlib.util.find_spec(module)
    parse = getattr(importlib.import_module(module), "parse", None)  # absent where `main` is all there is
    if not arguments or parse is None:
        return
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            parse(arguments)
    else:
        assert isinstance(parse(arguments), argparse.Namespace)


@pytest.mark.parametrize("name", SCRIPTS)
def test_section_of_a_script_has_its_options(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        importlib.import_module(f"scripts.{name}").main(["--help"])
    options = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)) - {"--help"}
    section = TEXTS[COMMANDS_PAGE].partition(f"### {name}\n")[2].partition("\n#")[0]
    assert f"python -m scripts.{name}" in section
    assert set(re.findall(r"--[a-z][\w-]*", section)) == options


def test_tables_of_the_configuration_are_those_of_the_code():
    assert configuration.page() == TEXTS[configuration.PAGE], "run python -m docs.configuration"


def test_notebook_stores_what_its_cells_print_and_draw():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        source = "".join(cell["source"])
        draws, prints = "show(" in source, source.startswith("!") or "print(" in source
        expected = draws * ["display_data"] + prints * ["stream"]
        assert [output["output_type"] for output in cell["outputs"]] == expected, source
        for output in cell["outputs"]:
            text = "".join(output.get("text", []))
            assert not re.search(r"(^|\s)/\w", text), "a path of one machine"
            for option in re.findall(r"[ =](\d+)(?![\d.])", source) if source.startswith("!") else []:
                assert re.search(rf"\b{int(option):,}\b", text), f"{option} of a command is not in its output"
            if draws:
                image = base64.b64decode(output["data"]["image/png"])
                assert image.startswith(b"\x89PNG") and len(image) < 60_000


# Replacements in the commands of the notebook, for a tiny model on the text of the pages.
TINY = {
    "experiment=lm_minute": "experiment=lm_minute num_steps=2 sample_every=null model.dim=16 "
    "model.num_layers=1 model.num_heads=2 model.num_kv_heads=2 "
    f"data=text_files data.path='{ROOT}/docs/*.md' data.held_out=0.5",
    "num_steps=50": "num_steps=1 sample_every=null",
    "--length 100": "--length 5",
    "--targets 4096": "--targets 200",
}


@pytest.mark.slow
def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    matplotlib.pyplot.switch_backend("agg")
    names = {}
    for language, code in blocks(NOTEBOOK, "", "python"):
        if language and "%pip" not in code:
            exec(code, names)
        for command in code.splitlines() if not language else []:
            for value, tiny in TINY.items():
                command = command.replace(value, tiny)
            run_python(command)


def test_table_of_differences_is_true():
    section = TEXTS[README].partition("## What is different")[2]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section, re.MULTILINE))
    assert rows["scalings"].split(", ") == [name for name in SCALINGS if name != "default"]
    assert all(layout in rows["pair layouts"] for layout in LAYOUTS)


def test_papers_of_the_pages_are_credited():
    credited = set(re.findall(r"arXiv ([\d.]{10})", TEXTS[README].partition("## Credits")[2]))
    assert len(credited) == 8
    assert set(re.findall(r"\d{4}\.\d{5}", TEXTS[README])) == credited


@pytest.fixture(scope="module")
def edited_copy(tmp_path_factory):
    """A copy of the repository with the edits of the tour."""
    copy = tmp_path_factory.mktemp("tour") / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "outputs", "__pycache__", "tests"))
    for language, code in blocks(TOUR, "python", "yaml", "diff"):
        if language == "diff":
            apply_diff(copy, code)
        elif header := FILE_HEADER.match(code):
            file = copy / header[1]
            before = file.read_text() if file.exists() else ""
            file.write_text(before + code[header.end() :])
    return copy


def apply_diff(copy, diff):
    """Replaces the lines of a diff without `+` by those without `-`; they occur in the file once."""
    header, *lines = diff.splitlines()
    file = copy / header.removeprefix("--- ")
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] != other) for other in "+-")
    text = file.read_text()
    assert text.count(old) == 1, header
    file.write_text(text.replace(old, new))


def test_scaling_of_the_tour_has_the_described_frequencies(edited_copy):
    """Runs without TensorFlow too."""
    scaling = {"rope_type": "ntk_mixed", "factor": 4.0}
    frequencies = "10.0 ** -np.arange(4)"
    code = f"import numpy as np, rope; print(*rope.scale_frequencies({frequencies}, {scaling}).frequencies)"
    expected = [10**-i / 4 ** (((i + 1) / 4) ** 0.625) for i in range(4)]
    output = subprocess.check_output([sys.executable, "-c", code], cwd=edited_copy, text=True)
    np.testing.assert_allclose([float(number) for number in output.split()], expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Add a scaling", "Add a dataset", "Add a model"])
def test_commands_of_the_tour_work_after_its_edits(title, edited_copy):
    section = TEXTS[TOUR].partition(f"## {title}\n")[2].partition("\n## ")[0]
    (commands,) = (code for language, code in BLOCK.findall(section) if not language)
    environment = {"XDG_CACHE_HOME": str(edited_copy / "cache"), "PYTHONPATH": str(edited_copy)}
    for command in commands.splitlines():
        command = re.sub("^python", shlex.quote(sys.executable), command)
        done = subprocess.run(
            command, shell=True, cwd=edited_copy, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    name = re.search(r"name=(\w+)", commands)[1]
    summary = json.loads((edited_copy / "outputs" / name / "summary.json").read_text())
    assert summary["step"] == 2
    if name == "shared":
        assert summary["parameters"] < 700_000  # of 1,377,664 with four blocks
