"""Content of the pictures, and that nothing of it is cut off."""

import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from runs import evaluate_passkey, evaluate_windows
from runs.evaluate_runs import plot_sizes
from runs.figure_style import PAPER
from runs.plots import Prediction, plot_confusion, plot_loss, plot_predictions

CLASSES = "a", "a very long name of a class", "third"
FORMULA = r"$\no$"  # is a name here, and would not compile as one


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    saved, savefig = [], Figure.savefig

    def record(figure, *args, **options):
        saved.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    return saved


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def labels_of(ticks):
    return [label.get_text() for label in ticks]


def test_loss_curves_are_drawn_in_their_unit(figures, tmp_path):
    rows = [{"step": step, "tokens": 1_000 * step, "loss": 5 / step} for step in (1, 2, 3)]
    rows[1]["validation_loss"] = 4.0
    plot_loss(rows, tmp_path / "loss.png", unit="tokens", title=FORMULA)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    (axes,) = figures[0].axes
    training, held_out = axes.lines
    np.testing.assert_allclose(training.get_xydata(), [(1_000, 5), (2_000, 2.5), (3_000, 5 / 3)])
    np.testing.assert_array_equal(held_out.get_xydata(), [(2_000, 4)])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens", "loss, nats per token")
    assert (labels_of(axes.get_xticklabels())[1], axes.get_yscale()) == ("1,000", "log")


def test_a_flat_loss_has_labels_without_an_offset(figures, tmp_path):
    rows = [{"images": 8 * step, "loss": 1.098 + step / 5_000} for step in range(1, 6)]
    plot_loss(rows, tmp_path / "loss.png", unit="images", title="a run")
    (axes,) = figures[0].axes
    low, high = axes.get_ylim()
    assert sum(low <= float(label) <= high for label in labels_of(axes.get_yticklabels())) >= 3
    assert axes.yaxis.get_offset_text().get_text() == ""


def test_accuracy_has_a_panel_of_its_own(figures, tmp_path):
    rows = [{"step": step, "images": 2_000_000 * step, "loss": 1.0, "accuracy": 0.5} for step in (1, 2)]
    plot_loss(rows, tmp_path / "loss.png", unit="images", title="a run")
    _, accuracy = figures[0].axes
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("images", "accuracy")
    np.testing.assert_array_equal(accuracy.lines[0].get_xydata(), [(2_000_000, 0.5), (4_000_000, 0.5)])


def window_rows(run, scaling="none", *, points):
    facts = {"run": run, "zero_shot": scaling, "context_length": 16}
    columns = "window", "nats_per_token", "standard_error"
    return [facts | dict(zip(columns, point, strict=True)) for point in points]


def test_losses_by_window_are_drawn_with_and_without_errors(figures, tmp_path):
    rows = window_rows("outputs/lm", points=[(16, 2.0, 0.1), (32, 1.5, 0.2)])
    rows += window_rows("outputs/lm", "yarn", points=[(16, 2.0, None), (32, 1.4, None)])
    evaluate_windows.plot_rows(rows, tmp_path / "context.png")
    axes = figures[0].axes[0]
    np.testing.assert_array_equal(axes.containers[1].lines[0].get_xydata(), [(16, 2), (32, 1.4)])
    assert [container.get_label() for container in axes.containers] == ["outputs/lm", "outputs/lm, yarn"]
    assert labels_of(axes.get_xticklabels()) == ["16", "32"]
    assert axes.get_xlabel().endswith("(dashed: trained length 16)")


def test_keys_found_are_drawn_with_a_panel_for_each_scaling(figures, tmp_path):
    facts = {"run": "run", "context_length": 64}
    rows = [
        facts | {"zero_shot": scaling, "length": length, "depth": depth, "accuracy": share}
        for scaling, shares in (("none", (1.0, 0.8, 0.5, 0.25)), ("yarn", (1.0, 0.8, 0.75, 0.0)))
        for (length, depth), share in zip(itertools.product((64, 128), (0.0, 1.0)), shares, strict=True)
    ]
    evaluate_passkey.plot_rows(rows, tmp_path / "passkey.png")
    plain, yarn = figures[0].axes
    assert [axes.get_title() for axes in (plain, yarn)] == ["run", "run, yarn"]
    assert labels_of(yarn.get_xticklabels()) == ["64\n(trained)", "128"]
    np.testing.assert_array_equal(yarn.images[0].get_array(), [[1.0, 0.75], [0.8, 0.0]])
    assert texts_of(yarn) == ["100 %", "75 %", "80 %", "0 %"]


def test_accuracies_are_drawn_by_image_size(figures, tmp_path):
    shares = {"a": {"12x8": 0.5, "8x8": 0.75, "4x8": 0.25}, "$b": {"12x8": 0.125, "8x8": 1.0, "4x8": 0.0}}
    rows = [
        {"run": run, "image_size": size, "accuracy": share}
        for run, by_size in shares.items()
        for size, share in by_size.items()
    ]
    plot_sizes(rows, tmp_path / "resolution.png")
    (axes,) = figures[0].axes
    assert labels_of(axes.get_xticklabels()) == ["4x8", "8x8", "12x8"]  # by pixels
    assert [line.get_label() for line in axes.lines] == ["a", "$b"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [0.0, 1.0, 0.125])


@pytest.mark.parametrize("num_classes", [3, 45])
def test_a_confusion_matrix_is_not_cut_off(num_classes, tmp_path):
    classes = (*CLASSES, *(f"class number {index}" for index in range(45)))[:num_classes]
    counts = np.random.default_rng(0).integers(0, 20, (num_classes, num_classes))
    plot_confusion(tmp_path / "confusion.png", counts, classes)
    pixels = matplotlib.image.imread(tmp_path / "confusion.png")[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        np.testing.assert_allclose(edge, np.broadcast_to(to_rgb(PAPER), edge.shape), atol=1e-6)


def test_a_confusion_matrix_shows_counts_on_shares_of_their_row(figures, tmp_path):
    counts = np.array([[6, 2, 0], [0, 1, 0], [0, 0, 0]])
    plot_confusion(tmp_path / "confusion.png", counts, CLASSES)
    axes = figures[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert texts_of(axes) == ["6", "2", "1"]
    assert labels_of(axes.get_yticklabels()) == ["a", "a very…a class", "third"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "class")


def test_predictions_are_labelled_and_wrong_ones_name_the_right_class(figures, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    right, wrong = Prediction(image, "cat", "cat", 0.875), Prediction(image, "cat", "dog", 0.5)
    gray = Prediction(image[..., :1], "a", "a", 1.0)
    groups = {"some": [right] * 9 + [wrong, gray], "most confident mistakes": []}
    plot_predictions(tmp_path / "predictions.png", groups)
    axes, empty = figures[0].axes
    assert texts_of(axes) == ["✓ cat, 88 %"] * 9 + ["✗ dog, 50 %\nlabel: cat", "✓ a, 100 %"]
    *colored, last = axes.images
    np.testing.assert_array_equal([picture.get_array() for picture in colored], [image] * 10)
    np.testing.assert_array_equal(last.get_array(), image[..., 0])
    assert (last.get_cmap().name, last.get_clim()) == ("gray", (0, 255))
    places = [picture.get_extent() for picture in axes.images]
    for text, (left, right, bottom, top) in zip(axes.texts, places, strict=True):
        x, y = text.get_position()
        assert left < x < right and y < top < bottom
        assert (right - left) / (bottom - top) == pytest.approx(6 / 4)
    assert len({(left, top) for left, _, _, top in places}) == 11
    assert not empty.images
    assert [part.get_suptitle() for part in figures[0].subfigs] == ["some", "most confident mistakes: none"]


def test_names_with_dollars_are_not_formulas(figures, tmp_path):
    plot_confusion(tmp_path / "confusion.png", np.eye(2, dtype=int), (FORMULA, "b"))
    image = np.zeros((4, 6, 3), np.uint8)
    plot_predictions(tmp_path / "predictions.png", {FORMULA: [Prediction(image, "b", FORMULA, 0.5)]})
    evaluate_windows.plot_rows(window_rows(FORMULA, points=[(8, 1.0, 0.1)]), tmp_path / "context.png")
    assert labels_of(figures[0].axes[0].get_xticklabels())[0] == FORMULA
    assert len(figures) == 3


def test_letters_without_a_glyph_print_no_warning(tmp_path, recwarn):
    plot_confusion(tmp_path / "confusion.png", np.eye(2, dtype=int), ("\x1b[2J", "日本"))
    assert (tmp_path / "confusion.png").exists()
    assert list(recwarn) == []
