import numpy as np
import pytest
from PIL import Image

from docs.figures.__main__ import DOCS, main
from docs.figures.extensions import scale_by_each, scalings
from runs import figure_style

PAGE_FOLDER = DOCS / "rope_explained"
NAMES = sorted(path.stem for path in PAGE_FOLDER.glob("*.png"))


def pixels(path):
    return np.asarray(Image.open(path).convert("RGBA")).astype(int)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    main([str(folder)])
    return folder


@pytest.mark.slow  # draws all figures
def test_one_command_draws_every_figure_of_the_page(drawn):
    assert sorted(path.stem for path in (drawn / "rope_explained").iterdir()) == NAMES
    for name in NAMES:
        ours, stored = (pixels(folder / "rope_explained" / f"{name}.png") for folder in (drawn, DOCS))
        assert ours.shape == stored.shape, name
        assert abs(ours - stored).mean() < 1, name  # of 255: processors may round a color differently


def test_a_figure_is_the_same_bytes_each_time(tmp_path):
    paths = tmp_path / "first.png", tmp_path / "second.png"
    for path in paths:
        figure_style.draw(scalings, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert abs(pixels(paths[0]) - pixels(PAGE_FOLDER / "scalings.png")).mean() < 1  # of 255


def test_figures_are_small_and_contain_no_date_or_version():
    assert len(NAMES) == 13
    for path in PAGE_FOLDER.glob("*.png"):
        assert path.stat().st_size < 100_000, path
        assert not Image.open(path).info.keys() - {"transparency"}, path


def test_figures_are_readable_on_light_and_dark_pages():
    """They have an opaque background of their own."""
    paper = [int(figure_style.PAPER[start : start + 2], 16) for start in (1, 3, 5)]
    for path in (*PAGE_FOLDER.glob("*.png"), *DOCS.glob("*.png"), *(DOCS / "studies").glob("*.png")):
        image = pixels(path)
        assert image.shape[1] <= 850, path  # the width of a page; a wider one is shrunk
        assert (image[..., 3] == 255).all(), path
        assert (abs(image[[0, 0, -1, -1], [0, -1, 0, -1], :3] - paper) <= 3).all(), path


def test_the_scalings_of_the_figure_are_those_of_the_rope_package():
    frequencies = 10_000.0 ** (-np.arange(0, 64, 2) / 64)
    scaled = scale_by_each(frequencies, length=256, factor=4.0)
    ends = {name: (s.frequencies / frequencies)[[0, -1]] for name, s in scaled.items()}
    np.testing.assert_allclose(ends["linear"], [0.25, 0.25])
    np.testing.assert_allclose(ends["ntk"], [1, 0.25])
    np.testing.assert_allclose(ends["yarn"], [1, 0.25])
    np.testing.assert_allclose(ends["dynamic"], [1, 1 / 13])  # factor * 4 - (factor - 1)
