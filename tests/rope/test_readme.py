"""Examples and claims of `rope/README.md`."""

import pathlib
import re

import numpy as np
import pytest

from rope.scaling import SCALINGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "rope" / "README.md").read_text()


@pytest.mark.slow
def test_the_examples_of_the_readme_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example saves a model
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 12
    names = {}
    for block in blocks:
        exec(compile(block, "rope/README.md", "exec"), names)
    assert names["new_keys"].shape == (2, 8, 1, 64)
    # The cached decode of the left-padded row equals a full pass without its padding.
    expected = names["model"](names["tokens"][:1, 3:])[:, -1:]
    np.testing.assert_allclose(names["logits"][:1], expected, atol=1e-5)


def test_every_scaling_has_an_example():
    for name in SCALINGS:
        assert name == "default" or f"`{name}`" in README or f'"{name}"' in README


def test_each_known_failure_is_backed_by_a_test():
    rows = README.partition("## Known failures")[2].splitlines()
    rows = [row for row in rows if row.startswith("| ")][1:]
    assert len(rows) >= 8
    defined = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        tests = re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1])
        assert tests and all(f"def {test}(" in defined for test in tests), row
