"""Pictures of what a classifier does: what is drawn, and that nothing of it is cut off."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from runs.pictures import Prediction, plot_confusion, plot_predictions, plot_resolution

NAMES = "a", "a very long name of a class", "third"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def assert_has_a_white_border(path):
    pixels = matplotlib.image.imread(path)[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        np.testing.assert_array_equal(edge, 1)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("num_classes", [2, 3, 10, 25, 45])
def test_a_confusion_matrix_is_not_cut_off(num_classes, tmp_path):
    classes = (*NAMES, *(f"class number {index}" for index in range(45)))[:num_classes]
    counts = np.random.default_rng(0).integers(0, 20, (num_classes, num_classes))
    plot_confusion(tmp_path / "confusion.png", counts, classes)
    assert_has_a_white_border(tmp_path / "confusion.png")


def test_a_confusion_matrix_shows_counts_as_shares_of_their_row(drawn, tmp_path):
    counts = np.array([[6, 2, 0], [0, 1, 0], [0, 0, 0]])
    plot_confusion(tmp_path / "confusion.png", counts, NAMES)
    axes = drawn[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert texts_of(axes) == ["6", "2", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "a very long n…", "third"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "class")


def test_each_prediction_is_drawn_with_its_class_and_a_wrong_one_with_the_right_class(drawn, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    right, wrong = Prediction(image, "cat", "cat", 0.875), Prediction(image, "cat", "dog", 0.5)
    plot_predictions(
        tmp_path / "predictions.png", {"some": [right] * 9 + [wrong], "most confident mistakes": []}
    )
    axes, empty = drawn[0].axes
    assert texts_of(axes) == ["cat, 88%"] * 9 + ["dog, 50%\nis cat"]
    np.testing.assert_array_equal([picture.get_array() for picture in axes.images], [image] * 10)
    places = [picture.get_extent() for picture in axes.images]
    for text, (left, right, bottom, top) in zip(axes.texts, places, strict=True):
        x, y = text.get_position()
        assert left < x < right and y < top < bottom
        assert (right - left) / (bottom - top) == pytest.approx(6 / 4)
    assert len({(left, top) for left, _, _, top in places}) == 10
    assert not empty.images
    assert [part.get_suptitle() for part in drawn[0].subfigs] == ["some", "most confident mistakes: none"]


def test_a_name_with_dollars_is_no_formula(drawn, tmp_path):
    name = r"$\no$"
    plot_confusion(tmp_path / "confusion.png", np.eye(2, dtype=int), (name, "b"))
    image = np.zeros((4, 6, 3), np.uint8)
    plot_predictions(tmp_path / "predictions.png", {name: [Prediction(image, "b", name, 0.5)]})
    plot_resolution(tmp_path / "resolution.png", {name: {(8, 8): 0.5}})
    assert drawn[0].axes[0].get_xticklabels()[0].get_text() == name
    assert len(drawn) == 3


def test_images_of_one_channel_are_grey(drawn, tmp_path):
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    plot_predictions(tmp_path / "predictions.png", {"some": [Prediction(image, "a", "a", 1.0)]})
    picture = drawn[0].axes[0].images[0]
    np.testing.assert_array_equal(picture.get_array(), image[..., 0])
    assert picture.get_cmap().name == "gray"
    assert picture.get_clim() == (0, 255)


def test_every_size_has_a_place_of_its_own(drawn, tmp_path):
    """Also sizes of one height, and those with as many pixels."""
    accuracies = {"vit": {(12, 8): 0.5, (8, 8): 0.75, (16, 16): 0.25, (8, 12): 1.0}}
    accuracies["mixed"] = {size: accuracy / 2 for size, accuracy in accuracies["vit"].items()}
    plot_resolution(tmp_path / "resolution.png", accuracies)
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8x8", "8x12", "12x8", "16x16"]
    first, second = axes.lines
    np.testing.assert_array_equal(first.get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(first.get_ydata(), [0.75, 1.0, 0.5, 0.25])
    np.testing.assert_array_equal(second.get_ydata(), first.get_ydata() / 2)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["vit", "mixed"]
