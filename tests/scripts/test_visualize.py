import pytest

from runs import plots
from scripts.visualize import main
from system.command import run_command


def visualize(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


@pytest.fixture(autouse=True)
def low_resolution(monkeypatch):
    monkeypatch.setattr(plots, "DPI", 40)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "required: figure"),
        (["attentoin", "outputs/lm"], "invalid choice: 'attentoin'"),
        (["attention"], "run_directory"),
        (["resolution", "outputs/vit", "--image-size", "8x"], "--image-size"),
    ],
)
def test_wrong_arguments_are_refused(arguments, problem, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert problem in capsys.readouterr().err


def test_attention_depends_on_the_prompt_and_fits_the_context(trained_run, tmp_path, capsys):
    pictures = []
    for prompt in ("the fox", "the $ vex"):
        assert visualize("attention", trained_run, "--prompt", prompt, "--output", tmp_path) == 0
        pictures.append((tmp_path / "attention.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert visualize("attention", trained_run, "--prompt", "a" * 17, "--output", tmp_path / "other") == 2
    assert "--prompt must have 2 to 16 bytes, got 17" in capsys.readouterr().err
    assert list((tmp_path / "other").iterdir()) == []


def test_accuracy_is_drawn_by_image_size(trained_images, tmp_path):
    pictures = []
    for sizes in ([], ["--image-size", "8", "12x8"]):
        assert visualize("resolution", trained_images, *sizes, "--output", tmp_path) == 0
        pictures.append((tmp_path / "resolution.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_run_or_size_of_another_kind_is_an_error(trained_run, trained_images, tmp_path, capsys):
    assert visualize("attention", trained_images, "--output", tmp_path) == 2
    assert visualize("resolution", trained_run, "--output", tmp_path) == 2
    assert capsys.readouterr().err.count("is a run of model.architecture") == 2
    assert visualize("resolution", trained_images, "--image-size", "9", "--output", tmp_path) == 2
    assert "is not a multiple of the patches" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
