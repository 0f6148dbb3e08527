"""Repository layout: imports between packages, and limits on the size of files and functions."""

import ast
import doctest
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ("system", "rope", "models", "data", "training", "configs", "runs")
PACKAGES = (*LIBRARY, "scripts", "benchmarks", "docs")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = [ROOT / "train.py", *MODULES]
# The packages, or single modules, that each package may import beside itself.
BELOW = {
    "system": set(),
    "rope": set(),
    "models": {"system", "rope"},
    "data": {"system"},
    "training": {"system"},
    "configs": {"system", "models.config", "data.config", "training.config"},
    **{package: {*LIBRARY} for package in ("runs", "scripts", "benchmarks", "docs")},
    "train.py": {"system", "configs", "runs.run"},
}
# Packages from elsewhere that these may import, beside the standard library.
NEEDS = {"rope": {"numpy", "tensorflow", "keras"}, "system": {"pydantic", "pydantic_core"}}
HYDRA = {"hydra", "omegaconf"}
# Files and lines that `python train.py` reaches by imports, and lines of the longest function.
MOST_FILES = 68
MOST_LINES = 9_779
LONGEST_FUNCTION = 60
# Two files share a name only where they mirror each other.
SHARED_NAMES = {"__init__.py", "__main__.py", "config.py", "huggingface.py", "study.py"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def reachable_from(path):
    """The file and every file of the repository that it imports, directly or not."""
    reached, pending = {path}, [path]
    while pending:
        for module in imports_of(pending.pop()):
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                base = ROOT.joinpath(*parts[:end])
                for file in (base.with_suffix(".py"), base / "__init__.py"):
                    if file.exists() and file not in reached:
                        reached.add(file)
                        pending.append(file)
    return reached


class RuntimeCode(ast.NodeTransformer):
    """Removes the imports that only type checkers see."""

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


@functools.cache
def imports_of(path):
    """Modules that a file imports at runtime, inside functions too, and names imported from modules."""
    names = []
    for node in ast.walk(RuntimeCode().visit(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def packages_of(path):
    return {name.split(".")[0] for name in imports_of(path)}


def functions_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_and_lines_reachable_from_train_stay_within_limits():
    reached = reachable_from(ROOT / "train.py")
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in reached)
    print(f"reachable from train.py: {len(reached)} files, {lines:,} lines")
    assert len(reached) <= MOST_FILES
    assert lines <= MOST_LINES


def test_functions_are_short():
    for path in SOURCES:
        for function in functions_of(path):
            length = function.end_lineno - function.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name_of(path)}: {function.name} has {length} lines"


def test_file_names_are_unique():
    names = [path.name for path in SOURCES if path.name not in SHARED_NAMES]
    assert sorted(set(names)) == sorted(names)


def test_train_has_one_lazy_import():
    lazy = [
        node.module
        for function in functions_of(ROOT / "train.py")
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert lazy == ["runs.run"]


def test_imports_run_downwards():
    assert {name_of(path) for path in SOURCES} >= {"train.py", "rope/rotation.py", "configs/schema.py"}
    for path in SOURCES:
        package = path.relative_to(ROOT).parts[0]
        for name in imports_of(path):
            top, *inner = name.split(".")
            if top in (*PACKAGES, "train", "tests") and top != package:
                assert BELOW[package] & {top, ".".join([top, *inner[:1]])}, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize(("package", "needs"), NEEDS.items())
def test_rope_and_system_need_few_other_packages(package, needs):
    for path in (ROOT / package).rglob("*.py"):
        assert packages_of(path) - set(sys.stdlib_module_names) <= {package, *needs}, name_of(path)


def test_only_configs_imports_hydra():
    users = {path for path in SOURCES if HYDRA & packages_of(path)}
    assert {path.relative_to(ROOT).parts[0] for path in users} <= {"configs"}


def test_configs_packages_and_commands_are_imported_without_tensorflow():
    light = [*PACKAGES, "rope.huggingface", "configs.schema", "train"]
    light += ["benchmarks.__main__", "docs.figures.__main__"]
    light += [f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("[a-z]*.py")]
    light += [f"{package}.config" for package in PACKAGES if (ROOT / package / "config.py").exists()]
    code = f"import sys, {', '.join(light)}\nprint({{'tensorflow', 'keras'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_code_executes_the_content_of_a_file(path):
    assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & packages_of(path)
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
