import pytest

from runs import figure_style, run_figures
from runs.plots import new_figure
from scripts.visualize import main
from system.command import run_command
from tests.run_helpers import save_untrained_image_run


def visualize(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def untrained_images(tmp_path_factory):
    return save_untrained_image_run(tmp_path_factory.mktemp("untrained"))[0]


@pytest.fixture(autouse=True)
def low_resolution(monkeypatch):
    monkeypatch.setattr(figure_style, "DPI", 40)


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


def test_attention_depends_on_the_prompt_and_fits_the_context(eagerly, trained_run, tmp_path, capsys):
    pictures = []
    for prompt in ("the fox", "the $ vex"):
        assert visualize("attention", trained_run, "--prompt", prompt, "--output", tmp_path) == 0
        pictures.append((tmp_path / "attention.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert visualize("attention", trained_run, "--prompt", "a" * 17, "--output", tmp_path / "other") == 2
    assert "--prompt must have 2 to 16 bytes, got 17" in capsys.readouterr().err
    assert list((tmp_path / "other").iterdir()) == []


def test_accuracy_is_drawn_by_image_size(eagerly, untrained_images, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(run_figures, "resolution", lambda rows: drawn.append(rows) or new_figure(2, 2))
    for sizes in ([], ["--image-size", "8", "12x8"]):
        assert visualize("resolution", untrained_images, *sizes, "--output", tmp_path) == 0
    assert [[row["image_size"] for row in rows] for rows in drawn] == [
        ["8x8", "12x12", "16x16"],
        ["8x8", "12x8"],
    ]
    assert (tmp_path / "resolution.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_or_size_of_another_kind_is_an_error(trained_run, untrained_images, tmp_path, capsys):
    assert visualize("attention", untrained_images, "--output", tmp_path) == 2
    assert visualize("resolution", trained_run, "--output", tmp_path) == 2
    assert capsys.readouterr().err.count("is a run of model.architecture") == 2
    assert visualize("resolution", untrained_images, "--image-size", "9", "--output", tmp_path) == 2
    assert "is not a multiple of the patches" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
