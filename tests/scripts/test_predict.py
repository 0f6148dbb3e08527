"""Image files, classified from the command line like held-out images by the model itself."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs.schema import Config, save_config
from scripts.predict import main
from system.command import run_command
from tests.run_helpers import made_image_run, rewrite_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with drawn weights, its task and its model; tests leave them as they are."""
    return made_image_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def digits(run, tmp_path_factory):
    """Three held-out images (8, 8) uint8, and the PNG files of them."""
    _, task, _ = run
    images = task.images.validation.images[[5, 70, 301], :, :, 0]
    paths = [tmp_path_factory.mktemp("images") / f"{number}.png" for number in range(3)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    return images, paths


def predict(capsys, *arguments):
    """Exit code, the lines of the output, those of the errors."""
    capsys.readouterr()
    code = run_command(lambda: main([str(argument) for argument in arguments]))
    output = capsys.readouterr()
    return code, output.out, output.err.splitlines()


def probabilities_of(run, image):
    """(classes,) from the model, of (8, 8) pixels from 0 to 255."""
    _, task, model = run
    normal = (np.float32(image) / 255 - task.mean) / task.deviation
    logits = model(normal[np.newaxis, :, :, np.newaxis].astype(np.float32)).numpy()[0].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum()


def assert_is_prediction(prediction, probabilities, *, top=3):
    order = np.argsort(-probabilities)[:top]
    assert [guess["class"] for guess in prediction["guesses"]] == [str(digit) for digit in order]
    given = [guess["probability"] for guess in prediction["guesses"]]
    np.testing.assert_allclose(given, probabilities[order], rtol=1e-4)  # float32 logits of a few units


def test_files_are_classified_as_the_model_classifies_their_pixels(run, digits, capsys):
    images, paths = digits
    code, output, errors = predict(capsys, run[0], *paths, "--json")
    assert (code, errors) == (0, [])
    predictions = json.loads(output)
    assert [prediction["image"] for prediction in predictions] == [str(path) for path in paths]
    for image, prediction in zip(images, predictions, strict=True):
        assert_is_prediction(prediction, probabilities_of(run, image))


def test_a_file_of_another_size_and_in_colour_is_seen_at_the_size_of_the_training(
    run, digits, tmp_path, capsys
):
    large = np.kron(digits[0][1], np.ones((3, 4), np.uint8))  # 24 x 32: the middle 24 x 24 counts
    Image.fromarray(np.stack([large] * 3, axis=-1)).save(tmp_path / "large.bmp")
    _, output, _ = predict(capsys, run[0], tmp_path / "large.bmp", "--json")
    seen = tf.image.resize(large[np.newaxis, :, 4:28, np.newaxis], (8, 8), antialias=True)
    (prediction,) = json.loads(output)
    assert_is_prediction(prediction, probabilities_of(run, np.rint(seen[0, :, :, 0])))


def test_a_file_is_a_line_with_its_best_classes(run, digits, capsys):
    images, paths = digits
    code, output, _ = predict(capsys, run[0], *paths, "--top", "2")
    assert code == 0
    for image, path, line in zip(images, paths, output.splitlines(), strict=True):
        probabilities = probabilities_of(run, image)
        first, second = np.argsort(-probabilities)[:2]
        assert line == f"{path}: {first} {probabilities[first]:.1%}, {second} {probabilities[second]:.1%}"


@pytest.mark.parametrize(("top", "expected"), [(1, 1), (10, 10), (99, 10)])
def test_so_many_classes_are_named_as_asked_for_and_there_are(run, digits, capsys, top, expected):
    _, output, _ = predict(capsys, run[0], digits[1][0], "--json", "--top", top)
    (prediction,) = json.loads(output)
    assert_is_prediction(prediction, probabilities_of(run, digits[0][0]), top=expected)


def test_the_help_says_what_becomes_of_another_shape(capsys):
    with pytest.raises(SystemExit, match="0"):
        predict(capsys, "--help")
    assert "where it has another shape, its middle is cut out" in " ".join(capsys.readouterr().out.split())


def test_fewer_than_one_class_is_refused(run, digits, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict(capsys, run[0], digits[1][0], "--top", 0)
    assert "--top must be at least 1, got 0" in capsys.readouterr().err


def test_a_file_that_is_no_image_is_named_and_the_others_are_answered(run, digits, tmp_path, capsys):
    text, missing = tmp_path / "notes.txt", tmp_path / "missing.png"
    text.write_text("not an image")
    code, output, errors = predict(capsys, run[0], text, digits[1][0], missing, digits[1][2], "--json")
    assert code == 2
    assert errors == [
        f"error: {text}: not an image that Pillow can read; choose an image file",
        f"error: cannot read {missing}: No such file or directory",
    ]
    predictions = json.loads(output)
    assert [prediction["image"] for prediction in predictions] == [str(digits[1][0]), str(digits[1][2])]


def test_a_run_of_a_language_model_is_refused(digits, tmp_path, capsys):
    save_config(Config(), tmp_path / "config.yaml")
    code, output, errors = predict(capsys, tmp_path, digits[1][0])
    assert (code, output) == (2, "")
    assert errors == [
        f"error: {tmp_path} is a run of model.architecture transformer_lm, this needs axial_vit"
    ]


@pytest.mark.parametrize(
    ("key", "values"), [("classes", ["0"]), ("mean", None), ("mean", []), ("deviation", [1.0, 1.0])]
)
def test_a_checkpoint_that_does_not_tell_how_images_are_seen_is_refused(
    run, digits, tmp_path, capsys, key, values
):
    forged = shutil.copytree(run[0], tmp_path / "forged")
    (path,) = (forged / "checkpoints").iterdir()
    rewrite_manifest(path, {key: values})
    code, output, (error,) = predict(capsys, forged, digits[1][0])
    assert (code, output) == (2, "")
    assert error.startswith(f"error: {forged}: the checkpoint of step ")
    expected = {"classes": 10, "mean": 1, "deviation": 1}[key]
    assert error.endswith(f"has {len(values or [])} values of {key}, expected {expected}")


def test_what_is_no_run_is_refused(digits, tmp_path, capsys):
    code, output, (error,) = predict(capsys, tmp_path, digits[1][0])
    assert (code, output) == (2, "")
    assert error.startswith(f"error: {tmp_path} is not a run directory")
