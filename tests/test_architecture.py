"""Repository layout: which package may import which, and what is imported when."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "system",
    "rope",
    "models",
    "data",
    "training",
    "configs",
    "runs",
    "scripts",
    "benchmarks",
    "docs",
)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = [ROOT / "train.py", *MODULES]
# The packages, or single modules, that each package may import beside itself.
BELOW = {
    "system": set(),
    "rope": set(),
    "models": {"system", "rope"},
    "data": {"system"},
    "training": {"system"},
    "configs": {"system", "models.config", "data.config", "training.config", "rope.config"},
    "runs": {"system", "rope", "models", "data", "training", "configs"},
    "scripts": {"system", "rope", "models", "data", "training", "configs", "runs"},
    "benchmarks": {"system", "rope", "models", "data", "training", "configs", "runs"},
    "docs": {"system", "rope", "models", "data", "training", "configs", "runs"},
    "train.py": {"system", "configs", "runs.run"},
}
# `system` is for the standard library; its options are checked by pydantic.
SYSTEM_NEEDS = {"pydantic", "pydantic_core"}
HYDRA = {"hydra", "omegaconf"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(path):
    """Names of the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            yield node.module


def test_the_sources_are_found():
    assert {name_of(path) for path in SOURCES} >= {"train.py", "rope/rotation.py", "configs/schema.py"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_downwards(path):
    package = path.relative_to(ROOT).parts[0]
    for module in imports_of(path):
        top = module.split(".")[0]
        if top in (*PACKAGES, "train", "tests") and top != package:
            assert BELOW[package] & {top, module}, f"{name_of(path)} imports {module}"


def test_rope_needs_numpy_tensorflow_and_keras_alone():
    for path in (ROOT / "rope").rglob("*.py"):
        others = {module.split(".")[0] for module in imports_of(path)} - set(sys.stdlib_module_names)
        assert others <= {"numpy", "tensorflow", "keras", "rope"}, name_of(path)


def test_system_needs_the_standard_library_and_pydantic_alone():
    for path in (ROOT / "system").rglob("*.py"):
        others = {module.split(".")[0] for module in imports_of(path)} - set(sys.stdlib_module_names)
        assert others <= {"system", *SYSTEM_NEEDS}, name_of(path)


def test_only_configs_imports_hydra():
    users = {path for path in SOURCES if HYDRA & {name.split(".")[0] for name in imports_of(path)}}
    assert {path.relative_to(ROOT).parts[0] for path in users} <= {"configs", "train.py"}


def test_configs_and_packages_are_imported_without_tensorflow():
    light = [*PACKAGES, "configs.schema", "train"]
    light += [f"{package}.config" for package in PACKAGES if (ROOT / package / "config.py").exists()]
    code = f"import sys, {', '.join(light)}\nprint({{'tensorflow', 'keras'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_code_runs_what_a_file_says(path):
    assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & set(imports_of(path))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"line {node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert "_target_" not in node.value, f"line {node.lineno}"


def test_no_yaml_names_code_to_call():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "_target_" not in text and "!!python" not in text, name_of(path)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if ">>> " in path.read_text(encoding="utf-8")], ids=name_of
)
def test_the_examples_in_docstrings_run(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
