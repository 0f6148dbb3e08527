"""The installable package: public names, their types, and `pip install .`."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mypy.api
import pytest

import rope

ROOT = Path(__file__).resolve().parents[2]
USER_FILE = """\
import numpy as np
from rope import RoPE, RotaryEmbedding, scale_frequencies

rotary = RotaryEmbedding(dim=8, theta=500.0)
wrong = RotaryEmbedding(dim=8, thta=1)
frequencies = scale_frequencies(np.ones(4), {}, thta=1)
layer = RoPE(8, thta=1)
"""


def test_public_names_resolve_and_are_documented():
    for name in dir(rope):
        assert getattr(rope, name).__name__ == name
        assert getattr(rope, name).__doc__
    with pytest.raises(AttributeError, match="module 'rope' has no attribute 'rotaryembedding'"):
        _ = rope.rotaryembedding


def test_type_checkers_see_the_public_names():
    imports = ast.parse(Path(rope.__file__).with_suffix(".pyi").read_text()).body
    assert {alias.asname: node.module for node in imports for alias in node.names} == rope._MODULE_OF


@pytest.mark.slow  # mypy reads the stubs of TensorFlow and NumPy
def test_mypy_reports_a_misspelt_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = tmp_path / "user.py"
    file.write_text(USER_FILE)
    cache = f"--cache-dir={tmp_path / 'cache'}"
    output, _, status = mypy.api.run(["--config-file=pyproject.toml", cache, str(file)])
    errors = [line for line in output.splitlines() if ": error: " in line]
    assert status == 1 and len(errors) == 3, output
    names = ("RotaryEmbedding", "scale_frequencies", "RoPE")
    for line, error, name in zip((5, 6, 7), errors, names, strict=True):
        expected = f'user.py:{line}: error: Unexpected keyword argument "thta" for "{name}"'
        assert expected in error and 'did you mean "theta"' in error


@pytest.mark.slow  # pip builds the package, and another process imports TensorFlow
def test_pip_installs_rope_alone(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT / "rope", source / "rope", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, source]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in installed.stderr:
        pytest.skip("no package index to download setuptools from")
    assert installed.returncode == 0, installed.stderr
    assert [path.name for path in site.iterdir() if path.suffix != ".dist-info"] == ["rope"]
    assert all((site / "rope" / name).exists() for name in ("py.typed", "__init__.pyi"))
    code = "import rope; print(rope.__file__, rope.RotaryEmbedding(8).angles([0, 1, 2]).shape)"
    environment = os.environ | {"PYTHONPATH": str(site)}
    output = subprocess.check_output(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, stderr=subprocess.DEVNULL
    )
    assert output.split(maxsplit=1) == [str(site / "rope" / "__init__.py"), "(3, 4)\n"]
