"""Accuracy of vision transformers from the command line, at the size of the training and at others."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.schema import Config, save_config
from scripts.evaluate import main, tables
from system.command import run_command
from tests.run_helpers import made_image_run
from training.checkpoints import Checkpoints

POSITIONS = "axial", "mixed", "learned", "sinusoidal", "none"


def evaluate(capsys, *arguments):
    """Exit code, the output, the lines of the errors."""
    capsys.readouterr()
    code = run_command(lambda: main([str(argument) for argument in arguments]))
    output = capsys.readouterr()
    return code, output.out, output.err.splitlines()


@pytest.fixture
def eagerly():
    """A tiny model is evaluated sooner than it is traced."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with drawn weights, its task and its model; tests leave its checkpoint as it is."""
    return made_image_run(tmp_path_factory.mktemp("made"))


def measured(task, model, size):
    """Accuracy and loss of all held-out images, resized and in one batch."""
    split = task.images.validation
    height, width = split.images.shape[1:3]
    side = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * side), round(size[1] * side)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = split.images[:, top : top + rows, left : left + columns]
    pixels = np.rint(tf.image.resize(middle, size, antialias=True)) / 255
    logits = model(((pixels - task.mean) / task.deviation).astype(np.float32)).numpy().astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), split.labels]
    return np.mean(logits.argmax(axis=1) == split.labels), losses.mean()


def test_the_accuracy_is_that_of_the_summary(trained_images, capsys):
    code, output, errors = evaluate(capsys, trained_images, "--json")
    assert (code, errors) == (0, [])
    (result,) = json.loads(output)
    summary = json.loads((trained_images / "summary.json").read_text())
    assert (result["run"], result["step"]) == (str(trained_images), 12)
    assert (result["image_size"], result["images"]) == ("8x8", 360)
    assert result["parameters"] == summary["parameters"]
    assert result["accuracy"] == pytest.approx(summary["accuracy"], abs=1e-9)
    assert result["top_5_accuracy"] == pytest.approx(summary["top_5_accuracy"], abs=1e-9)
    assert result["loss"] == pytest.approx(summary["validation_loss"], abs=1e-6)


@pytest.mark.parametrize("position", POSITIONS)
def test_each_size_is_a_row_of_what_the_model_makes_of_images_of_that_size(
    position, eagerly, tmp_path, capsys
):
    run, task, model = made_image_run(tmp_path, position=position)
    code, output, errors = evaluate(capsys, run, "--image-size", "8", "8x12", "12x6", "--json")
    assert code == 0
    rows = json.loads(output)
    assert [row["image_size"] for row in rows] == ["8x8", "8x12", "12x6"]
    for row, size in zip(rows, ((8, 8), (8, 12), (12, 6)), strict=True):
        accuracy, loss = measured(task, model, size)
        assert (row["step"], row["images"]) == (7, 360)
        assert row["accuracy"] == pytest.approx(accuracy, abs=1.5 / 360)  # a rounded pixel may tip one image
        assert row["loss"] == pytest.approx(loss, rel=1e-3)
    notes = [line for line in errors if line.startswith("note: ")]
    sizes = ("8x12", "12x6") if position == "learned" else ()
    assert notes == [
        f"note: the learned positions of {run} are resampled for images of {size}." for size in sizes
    ]
    assert errors[-1] == f"wrote {run / 'resolution.png'}"
    assert (run / "resolution.png").read_bytes().startswith(b"\x89PNG")


def test_sizes_of_several_runs_make_one_table_and_one_picture_where_the_command_runs(
    made, eagerly, tmp_path, monkeypatch, capsys
):
    other, _, _ = made_image_run(tmp_path / "other", patch_size=4)
    monkeypatch.chdir(tmp_path)
    code, output, errors = evaluate(capsys, made[0], other, "--image-size", "8", "4x8")
    assert code == 0
    headers, *rows = output.splitlines()
    assert headers.split()[:5] == ["run", "step", "image", "size", "images"]
    assert [row.split()[:3] for row in rows] == [
        [str(run), "7", size] for run in (made[0], other) for size in ("8x8", "4x8")
    ]
    assert errors == ["wrote resolution.png"]
    assert (tmp_path / "resolution.png").exists()


def test_a_size_that_the_patches_do_not_divide_is_refused_before_anything_is_measured(made, capsys):
    code, output, errors = evaluate(capsys, made[0], "--image-size", "8", "8x13")
    assert (code, output) == (2, "")
    assert errors == [
        f"error: --image-size 8x13 is not a multiple of the patches of {made[0]}, which are 2x2 pixels"
    ]


@pytest.mark.parametrize("size", ["0", "8x", "x8", "8x12x3", "8,12", "-8", "big"])
def test_what_is_no_size_is_refused(size, made, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(capsys, made[0], f"--image-size={size}")
    assert f"must be pixels, such as 16 or 16x24, got {size!r}" in capsys.readouterr().err


def test_the_help_says_what_becomes_of_another_shape(capsys):
    with pytest.raises(SystemExit, match="0"):
        evaluate(capsys, "--help")
    assert "the middle is cut out of another shape" in " ".join(capsys.readouterr().out.split())


def test_windows_and_sizes_exclude_each_other(made, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(capsys, made[0], "--image-size", "8", "--windows", "16")
    assert "--windows is for language models, --image-size for vision transformers" in capsys.readouterr().err


def test_each_kind_of_model_is_measured_in_its_own_way(made, tmp_path, capsys):
    save_config(Config(), tmp_path / "config.yaml")
    code, output, errors = evaluate(capsys, tmp_path, "--image-size", "8")
    assert (code, output) == (2, "")
    assert errors == [
        f"error: {tmp_path} is a run of model.architecture transformer_lm, this needs axial_vit"
    ]
    code, output, errors = evaluate(capsys, made[0], "--windows", "8")
    assert (code, output) == (2, "")
    assert errors == [f"error: {made[0]} is a run of model.architecture axial_vit, this needs transformer_lm"]


def test_runs_of_two_tasks_make_two_tables():
    text = {"run": "outputs/lm", "step": 2_000, "context_length": 256, "nats_per_token": 1.25}
    image = {"run": "outputs/vit", "step": 30, "image_size": "8x8", "accuracy": 0.98765}
    first, second = tables([text, image, text | {"run": "outputs/wide", "step": None}]).split("\n\n")
    assert first.splitlines() == [
        "         run   step  context length  nats per token",
        "  outputs/lm  2,000             256          1.2500",
        "outputs/wide      -             256          1.2500",
    ]
    assert second.splitlines() == [
        "        run  step  image size  accuracy",
        "outputs/vit    30         8x8    0.9877",
    ]


@pytest.mark.parametrize("options", [[], ["--image-size", "8"]])
def test_other_images_than_those_of_the_training_are_said(options, eagerly, tmp_path, capsys):
    run, task, model = made_image_run(tmp_path)
    checkpoints = Checkpoints(run / "checkpoints", model, keras.optimizers.SGD(), keep=1)
    checkpoints.save(8, task.facts | {"data_fingerprint": "of another set"})
    code, _, errors = evaluate(capsys, run, *options)
    assert code == 0
    assert f"note: {run} was trained on other data than this machine's digits." in errors


@pytest.mark.parametrize("options", [[], ["--image-size", "8"], ["--image-size", "12"]])
def test_other_classes_than_those_of_the_training_are_refused(options, tmp_path, capsys):
    run, task, model = made_image_run(tmp_path)
    checkpoints = Checkpoints(run / "checkpoints", model, keras.optimizers.SGD(), keep=1)
    checkpoints.save(8, task.facts | {"classes": [*"01234567", "a", "b"]})
    code, output, errors = evaluate(capsys, run, *options)
    assert (code, output) == (2, "")
    assert errors == [
        "error: the data have changed since this run began: class 8 was a, now it is 8. "
        "To use the current data, start a new run: name=NEW"
    ]


@pytest.mark.parametrize("options", [[], ["--image-size", "8"]])
def test_images_are_normalised_as_in_the_training(options, eagerly, tmp_path, capsys):
    run, task, model = made_image_run(tmp_path)
    checkpoints = Checkpoints(run / "checkpoints", model, keras.optimizers.SGD(), keep=1)
    checkpoints.save(8, task.facts | {"mean": [0.9], "deviation": [0.1]})
    _, output, _ = evaluate(capsys, run, *options, "--json")
    other = replace(task, mean=np.float32([0.9]), deviation=np.float32([0.1]))
    assert json.loads(output)[0]["loss"] == pytest.approx(measured(other, model, (8, 8))[1], rel=1e-4)
