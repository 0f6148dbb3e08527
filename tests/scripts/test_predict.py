"""Classification of image files from the command line."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from scripts.predict import main


@pytest.fixture(scope="module")
def digits(untrained, tmp_path_factory):
    """Three held-out images (8, 8) uint8, and their PNG files."""
    _, task, _ = untrained
    images = task.images.validation.images[[5, 70, 301], :, :, 0]
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(3)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    return images, paths


def expected_probabilities(untrained, image):
    """Probabilities (classes,) of (8, 8) pixels from 0 to 255, computed in NumPy from the logits."""
    _, task, model = untrained
    normal = (np.float32(image) / 255 - task.images.mean) / task.images.deviation
    logits = model(normal[np.newaxis, :, :, np.newaxis].astype(np.float32)).numpy()[0].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum()


def assert_is_prediction(prediction, probabilities, *, top=3):
    order = np.argsort(-probabilities)[:top]
    assert [guess["class"] for guess in prediction["guesses"]] == [str(digit) for digit in order]
    actual = [guess["probability"] for guess in prediction["guesses"]]
    np.testing.assert_allclose(actual, probabilities[order], rtol=1e-4)  # float32 logits of a few units


def test_files_are_classified_like_their_pixels(untrained, digits, run):
    images, paths = digits
    code, output, errors = run(main, untrained[0], *paths, "--json")
    assert (code, errors) == (0, [])
    predictions = json.loads(output)
    assert [prediction["image"] for prediction in predictions] == [str(path) for path in paths]
    _, output, _ = run(main, untrained[0], *paths, "--top", 2)
    for image, prediction, line in zip(images, predictions, output.splitlines(), strict=True):
        assert_is_prediction(prediction, expected_probabilities(untrained, image))
        guesses = [f"{each['class']} {100 * each['probability']:.1f} %" for each in prediction["guesses"][:2]]
        assert line == f"{prediction['image']}: {', '.join(guesses)}"


def test_a_color_image_of_another_size_is_cropped_and_resized(untrained, digits, tmp_path, run):
    large = np.kron(digits[0][1], np.ones((3, 4), np.uint8))  # 24 x 32: the middle 24 x 24 counts
    Image.fromarray(np.stack([large] * 3, axis=-1)).save(tmp_path / "large.bmp")
    _, output, _ = run(main, untrained[0], tmp_path / "large.bmp", "--json", "--top", 99)
    resized = tf.image.resize(large[np.newaxis, :, 4:28, np.newaxis], (8, 8), antialias=True)
    (prediction,) = json.loads(output)
    assert_is_prediction(prediction, expected_probabilities(untrained, np.rint(resized[0, :, :, 0])), top=10)


def test_an_unreadable_file_is_reported_and_the_others_are_classified(untrained, digits, tmp_path, run):
    text, missing = tmp_path / "notes.txt", tmp_path / "missing.png"
    text.write_text("not an image")
    code, output, errors = run(main, untrained[0], text, digits[1][0], missing, digits[1][2], "--json")
    assert code == 2
    assert errors == [
        f"error: {text}: not an image in a supported format; choose an image file",
        f"error: cannot read {missing}: No such file or directory",
    ]
    predictions = json.loads(output)
    assert [prediction["image"] for prediction in predictions] == [str(digits[1][0]), str(digits[1][2])]


def test_directories_and_files_are_classified_into_a_csv_file(untrained, digits, tmp_path, run):
    images, paths = digits
    (paths[0].parent / "notes.txt").write_text("not an image")
    table = tmp_path / "digits.csv"
    code, output, errors = run(main, untrained[0], paths[0].parent, paths[1], "--csv", table, "--top", 2)
    (paths[0].parent / "notes.txt").unlink()
    assert (code, output) == (0, "")
    assert errors == ["skipped 1 file that cannot be images, first: notes.txt", f"wrote {table}"]
    header, *rows = csv.reader(table.read_text().splitlines())
    assert header == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row[0] for row in rows] == [str(path) for path in (*paths, paths[1])]
    assert rows[1] == rows[3]
    for row, image in zip(rows, images, strict=False):
        guesses = [{"class": row[rank], "probability": float(row[rank + 1])} for rank in (1, 3)]
        assert_is_prediction({"guesses": guesses}, expected_probabilities(untrained, image), top=2)


def test_directory_without_images_and_a_csv_path_without_directory_are_refused(
    untrained, digits, tmp_path, run
):
    (tmp_path / "empty").mkdir()
    code, output, errors = run(main, untrained[0], tmp_path / "empty")
    assert (code, output) == (2, "")
    assert errors == [f"error: no images in {tmp_path / 'empty'}; choose image files or their directory"]
    table = tmp_path / "missing" / "a.csv"
    code, _, errors = run(main, untrained[0], digits[1][0], "--csv", table)
    assert (code, errors) == (2, [f"error: cannot write {table} (No such file or directory)"])
