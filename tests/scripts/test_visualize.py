import pytest

from runs import figure_style
from scripts.visualize import main
from system.command import run_command


def visualize(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


@pytest.fixture(autouse=True)
def low_resolution(monkeypatch):
    monkeypatch.setattr(figure_style, "DPI", 40)


def test_attention_depends_on_the_prompt_and_fits_the_context(eagerly, trained_run, tmp_path, capsys):
    pictures = []
    for prompt in (["--prompt", "the fox"], ["--prompt", "the $ vex"], []):
        assert visualize(trained_run, *prompt, "--output", tmp_path) == 0
        pictures.append((tmp_path / "attention.png").read_bytes())
    assert len(set(pictures)) == 3
    assert visualize(trained_run, "--prompt", "a" * 17, "--output", tmp_path / "other") == 2
    assert "--prompt must have 2 to 16 tokens, got 17" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
