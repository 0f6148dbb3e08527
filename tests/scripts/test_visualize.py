import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from PIL import Image

import models.layers
from docs.figures import style
from docs.figures.before import moving_scores
from docs.figures.catalogue import FIGURES
from docs.figures.fading import decay_bound
from docs.figures.stretching import scaled_by_name, verdict
from docs.figures.trained import attention_weights, recorded_attention, weights_of
from models.config import AxialViTConfig, TransformerLMConfig
from models.layers import attend
from models.transformer import TransformerLM
from models.vit import AxialViT
from rope.config import RopeConfig
from scripts.visualize import function_of, main
from system.command import run_command
from system.errors import RunError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "rope_explained"
OTHER = {
    "dim": 12,
    "head_dim": 8,
    "theta": 50.0,
    "length": 20,
    "position": 2,
    "frequency": 0.7,
    "factor": 3.0,
    "scaling": ["yarn"],
    "layout": "half",
    "scale_base": 64.0,
    "size": 9,
    "seed": 5,
}


def visualize(*arguments):
    return run_command(lambda: main([str(argument) for argument in arguments]))


def content(name, **changes):
    """What a figure of the page shows with some other options: its lines, images, bars and arrows."""
    parts = []
    for artist in function_of(name)(**(FIGURES[name].options | changes)).findobj():
        if isinstance(artist, Line2D):
            parts.append(artist.get_xydata())
        elif isinstance(artist, AxesImage):
            parts.append(artist.get_array().filled(np.nan))
        elif isinstance(artist, Rectangle):
            parts.append(np.array(artist.get_bbox().bounds))
        elif isinstance(artist, Annotation):
            parts.append(np.array(artist.xy))
    return [part.tobytes() for part in parts]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)


@pytest.mark.parametrize("name", FIGURES)
def test_each_option_changes_what_a_figure_shows(name):
    first = content(name)
    assert content(name) == first
    for option in FIGURES[name].options:
        assert content(name, **{option: OTHER[option]}) != first, option


@pytest.mark.parametrize("name", FIGURES)
def test_the_page_shows_what_the_code_draws(name, tmp_path):
    assert visualize(name, "--output", tmp_path) == 0
    fresh, shown = (pixels(folder / f"{name}.png").astype(int) for folder in (tmp_path, PAGE))
    assert fresh.shape == shown.shape
    assert abs(fresh - shown).mean() < 1  # of 255: another processor may round a colour differently


def test_a_figure_is_the_same_bytes_each_time(tmp_path):
    paths = tmp_path / "first.png", tmp_path / "second.png"
    for path in paths:
        style.draw(function_of("scalings"), path, **FIGURES["scalings"].options)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def pixels(path):
    return np.asarray(Image.open(path).convert("RGBA"))


def test_figures_are_small_and_carry_no_date_or_version():
    files = sorted(PAGE.glob("*.png"))
    assert {path.stem for path in files} >= set(FIGURES)
    for path in files:
        assert path.stat().st_size < 100_000, path
        assert not Image.open(path).info.keys() - {"transparency"}, path


def test_figures_can_be_read_on_light_and_dark_pages():
    """They bring their paper, so that the page does not matter; the limits are those of WCAG 2."""
    assert contrast(style.INK, style.PAPER) > 7
    assert all(contrast(color, style.PAPER) > 3 for color in (*style.COLORS, style.FAINT))
    for path in PAGE.glob("*.png"):
        shown = pixels(path)
        assert (shown[..., 3] == 255).all(), path
        paper = [int(style.PAPER[start : start + 2], 16) for start in (1, 3, 5)]
        assert (abs(shown[[0, 0, -1, -1], [0, -1, 0, -1], :3].astype(int) - paper) <= 3).all(), path


def contrast(one, other):
    lights = sorted(map(luminance, (one, other)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(color):
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_all_figures_are_drawn_when_none_is_named(tmp_path, monkeypatch, capsys):
    drawings = []
    monkeypatch.setattr(
        style, "draw", lambda function, path, **options: drawings.append((path.stem, options))
    )
    assert visualize("--output", tmp_path / "new" / "folder") == 0
    assert drawings == [(name, dict(drawing.options)) for name, drawing in FIGURES.items()]
    assert (tmp_path / "new" / "folder").is_dir()
    assert f"wrote {tmp_path / 'new' / 'folder' / 'grid.png'}" in capsys.readouterr().out


@pytest.mark.parametrize("before", [True, False])
def test_the_folder_is_read_before_and_after_the_name(before, tmp_path, monkeypatch):
    paths = []
    monkeypatch.setattr(style, "draw", lambda function, path, **options: paths.append(path))
    folder = ["--output", tmp_path]
    assert visualize(*(folder if before else []), "turn", *([] if before else folder)) == 0
    assert paths == [tmp_path / "turn.png"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["turned"], "invalid choice: 'turned'"),
        (["turn", "--dim", "8"], "unrecognized arguments: --dim 8"),
        (["pairs", "--dim", "7"], "must be even"),
        (["grid", "--head-dim", "6"], "multiple of 4"),
        (["pairs", "--theta", "1"], "above 1"),
        (["pairs", "--theta", "inf"], "above 1"),
        (["scalings", "--scaling", "linear,yarm"], "must be one of linear, ntk, yarn, dynamic"),
        (["attention"], "run_directory"),
    ],
)
def test_what_no_figure_reads_is_refused(arguments, problem, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert problem in capsys.readouterr().err


def test_help_does_not_wait_for_tensorflow():
    code = (
        "import sys\nfrom scripts.visualize import main\n"
        "try:\n    main(['scalings', '--help'])\n"
        "except SystemExit:\n    print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n") and "how many times longer" in done.stdout


def test_the_bound_is_the_mean_of_the_partial_sums():
    angles = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.25]])
    sums = [np.exp(1j * np.array(first)).sum() for first in ([1.0], [1.0, 0.5], [1.0, 0.5, 0.25])]
    np.testing.assert_allclose(decay_bound(angles), [2.0, np.abs(sums).mean()])


def test_only_the_rotated_score_stays_as_the_words_move():
    scores = moving_scores(np.arange(40), dim=16, theta=100.0, trained=20, seed=3)
    learned, sinusoids, rotated = scores.values()
    np.testing.assert_allclose(rotated, rotated[0], atol=1e-5)  # float32 angles up to 43 rad
    assert np.std(sinusoids) > 0.1
    assert np.isfinite(learned[:17]).all() and np.isnan(learned[17:]).all()


def test_angles_are_new_only_where_they_lie_beyond_those_that_were_seen():
    assert verdict(np.array([0, 7.0]), np.array([0, 14.0])).startswith("all")
    assert verdict(np.array([0, 1.0]), np.array([0, 2.0])).startswith("beyond")
    assert verdict(np.array([0, 1.0]), np.array([0, 1.03])).startswith("within")


def test_the_scalings_of_the_figure_are_those_of_the_rope_package():
    frequencies = 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    scaled = scaled_by_name(frequencies, 10_000.0, 256, 4.0, ["linear", "ntk", "dynamic", "yarn"])
    ends = {name: (s.frequencies / frequencies)[[0, -1]] for name, s in scaled.items()}
    np.testing.assert_allclose(ends["linear"], [0.25, 0.25])
    np.testing.assert_allclose(ends["ntk"], [1, 0.25])
    np.testing.assert_allclose(ends["yarn"], [1, 0.25])
    np.testing.assert_allclose(ends["dynamic"], [1, 1 / 13])  # factor * 4 - (factor - 1)


@pytest.mark.parametrize("biased", [True, False])
def test_recomputed_weights_are_those_of_the_attention(biased):
    queries, keys, values = (
        tf.random.stateless_normal((2, heads, 5, 8), (heads, number))
        for number, heads in enumerate((6, 3, 3))
    )
    bias = tf.random.stateless_normal((2, 1, 5, 5), (0, 9)) if biased else None
    mixed = weights_of(queries, keys, bias) @ tf.repeat(values, 2, axis=1)
    np.testing.assert_allclose(mixed, attend(queries, keys, values, bias), rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kv_heads": 2, "qk_norm": True, "learned_rotations": "cumulative"},
        {"position": "alibi"},
        {"rope": RopeConfig(xpos=True, layout="half")},
    ],
)
def test_weights_are_recorded_for_every_kind_of_position(options):
    model = TransformerLM(TransformerLMConfig(dim=32, num_layers=3, mlp_dim=48, **options))
    tokens = tf.constant([[0, 5, 6, 7, 8]])
    logits = model(tokens)
    layers = attention_weights(model, tokens)
    assert [weights.shape for weights in layers] == [(1, 4, 5, 5)] * 3
    for weights in layers:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        assert not np.triu(weights, 1).any()
    np.testing.assert_array_equal(model(tokens), logits)


def test_weights_of_rows_and_columns_are_recorded():
    config = AxialViTConfig(dim=32, num_layers=1, mlp_dim=48, attention="axial", patch_size=2)
    model = AxialViT(config.for_images(4, 6, channels=1, num_classes=3))
    layers = attention_weights(model, tf.zeros((1, 4, 6, 1)))
    assert [weights.shape for weights in layers] == [(2, 4, 3, 3), (3, 4, 2, 2)]


def test_attention_is_as_before_once_it_was_recorded():
    with pytest.raises(ZeroDivisionError), recorded_attention():
        _ = 1 / 0
    assert models.layers.attend is attend


def test_a_model_that_makes_no_weights_is_told():
    with pytest.raises(RunError, match="no attention weights"):
        attention_weights(lambda inputs: inputs, tf.zeros(3))


def test_the_heads_of_a_run_are_drawn_for_its_prompt(trained_run, tmp_path, small):
    pictures = []
    for prompt in ("the fox", "the $ vex"):
        assert visualize("attention", trained_run, "--prompt", prompt, "--output", tmp_path) == 0
        pictures.append((tmp_path / "attention.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_prompt_beyond_the_context_is_refused(trained_run, tmp_path, capsys):
    assert visualize("attention", trained_run, "--prompt", "a" * 17, "--output", tmp_path) == 2
    assert "--prompt must have 2 to 16 bytes, got 17" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_accuracy_is_drawn_by_image_size(trained_images, tmp_path, small):
    pictures = []
    for sizes in ([], ["--image-size", "8", "12x8"]):
        assert visualize("resolution", trained_images, *sizes, "--output", tmp_path) == 0
        pictures.append((tmp_path / "resolution.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_run_of_another_kind_is_refused(trained_run, trained_images, tmp_path, capsys):
    assert visualize("attention", trained_images, "--output", tmp_path) == 2
    assert visualize("resolution", trained_run, "--output", tmp_path) == 2
    assert capsys.readouterr().err.count("is a run of model.architecture") == 2
    assert visualize("resolution", trained_images, "--image-size", "9", "--output", tmp_path) == 2
    assert "is not a multiple of the patches" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
