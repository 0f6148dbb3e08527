"""Accuracy of vision transformers at the training size and at other sizes."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs.compose import save_config
from configs.schema import Config
from runs.image_task import ImageTask
from scripts.evaluate import main
from tests.run_helpers import save_untrained_image_run
from training.checkpoints import Checkpoints


def expected_results(task, model, size):
    """Accuracy and loss over all held-out images, resized and in one batch, in NumPy."""
    split = task.images.validation
    height, width = split.images.shape[1:3]
    side = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * side), round(size[1] * side)
    top, left = (height - rows) // 2, (width - columns) // 2
    center = split.images[:, top : top + rows, left : left + columns]
    pixels = np.rint(tf.image.resize(center, size, antialias=True)) / 255
    pixels = ((pixels - task.images.mean) / task.images.deviation).astype(np.float32)
    logits = model(pixels).numpy().astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), split.labels]
    return np.mean(logits.argmax(axis=1) == split.labels), losses.mean()


def test_evaluate_gives_the_accuracy_of_the_summary(trained_images, run):
    code, output, errors = run(main, trained_images, "--json")
    assert (code, errors) == (0, [])
    (result,) = json.loads(output)
    summary = json.loads((trained_images / "summary.json").read_text())
    assert (result["run"], result["step"]) == (str(trained_images), 12)
    assert (result["image_size"], result["images"]) == ("8x8", 360)
    assert result["parameters"] == summary["parameters"]
    assert result["accuracy"] == pytest.approx(summary["accuracy"], abs=1e-9)
    assert result["top_5_accuracy"] == pytest.approx(summary["top_5_accuracy"], abs=1e-9)
    assert result["nats_per_image"] == pytest.approx(summary["validation_loss"], abs=1e-6)


@pytest.mark.parametrize("position", ["axial", "mixed", "learned"])
def test_image_sizes_give_the_results_of_the_model_on_resized_images(position, eagerly, tmp_path, run):
    path, task, model = save_untrained_image_run(tmp_path, position=position)
    code, output, errors = run(main, path, "--image-size", "8", "12x6", "--json")
    assert code == 0
    rows = json.loads(output)
    assert [row["image_size"] for row in rows] == ["8x8", "12x6"]
    for row, size in zip(rows, ((8, 8), (12, 6)), strict=True):
        accuracy, loss = expected_results(task, model, size)
        assert (row["step"], row["images"]) == (7, 360)
        # A rounded pixel may change one image.
        assert row["accuracy"] == pytest.approx(accuracy, abs=1.5 / 360)
        assert row["nats_per_image"] == pytest.approx(loss, rel=1e-3)
    notes = [line for line in errors if line.startswith("note: ")]
    note = f"note: the learned positions of {path} are resampled for images of 12x6."
    assert notes == ([note] if position == "learned" else [])
    assert errors[-1] == f"wrote {path / 'resolution.png'}"
    assert (path / "resolution.png").read_bytes().startswith(b"\x89PNG")


def test_several_runs_share_a_table_and_a_picture_in_the_current_directory(
    untrained, eagerly, tmp_path, monkeypatch, run
):
    monkeypatch.chdir(tmp_path)
    other, _, _ = save_untrained_image_run(tmp_path / "$other", patch_size=4)
    code, output, errors = run(main, untrained[0], other, "--image-size", "--json")
    assert (code, errors) == (0, ["wrote resolution.png"])
    assert (tmp_path / "resolution.png").exists()
    assert [(row["run"], row["image_size"]) for row in json.loads(output)] == [
        (str(path), size) for path in (untrained[0], other) for size in ("8x8", "12x12", "16x16")
    ]


def test_a_size_that_is_not_a_multiple_of_the_patches_is_refused(untrained, run):
    code, output, errors = run(main, untrained[0], "--image-size", "8", "8x13")
    assert (code, output) == (2, "")
    assert "config error: patch_size must divide both sides of the images, got 2 for 8x13" in errors[0]


def test_an_invalid_size_is_refused(run, capsys):
    for size in ("0", "8x12x3", "8,12"):
        with pytest.raises(SystemExit, match="2"):
            run(main, "anywhere", f"--image-size={size}")
        assert f"must be pixels, such as 16 or 16x24, got {size!r}" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(main, "anywhere", "--image-size", "8", "--windows", "16")
    assert "argument --windows: not allowed with argument --image-size" in capsys.readouterr().err


def test_options_for_the_other_kind_of_model_are_refused(untrained, tmp_path, run):
    save_config(Config(), tmp_path / "config.yaml")
    problem = "error: {} is not a run of a {}, which this command needs"
    _, _, errors = run(main, tmp_path, "--image-size", "8")
    assert errors == [problem.format(tmp_path, "vision transformer")]
    _, _, errors = run(main, untrained[0], "--windows", "8")
    assert errors == [problem.format(untrained[0], "language model")]


def rewrite_facts(path, task, model, **facts):
    """Saves a checkpoint that records other facts about the data."""
    checkpoints = Checkpoints(path / "checkpoints", model, keras.optimizers.SGD(), keep=1)
    checkpoints.save(8, task.facts | facts)


@pytest.mark.parametrize("options", [[], ["--image-size", "8"]])
def test_images_are_normalized_as_in_training_and_changed_data_are_noted(options, eagerly, tmp_path, run):
    path, task, model = save_untrained_image_run(tmp_path)
    rewrite_facts(path, task, model, mean=[0.9], deviation=[0.1], data_fingerprint="of another set")
    code, output, errors = run(main, path, *options, "--json")
    assert code == 0
    assert f"note: {path} was trained on data that differ from digits on this machine." in errors
    images = replace(task.images, mean=np.float32([0.9]), deviation=np.float32([0.1]))
    other = ImageTask(task.config, images)
    expected = expected_results(other, model, (8, 8))[1]
    assert json.loads(output)[0]["nats_per_image"] == pytest.approx(expected, rel=1e-4)


def test_other_classes_than_in_training_are_refused(tmp_path, run):
    path, task, model = save_untrained_image_run(tmp_path)
    rewrite_facts(path, task, model, classes=[*"01234567", "a", "b"])
    code, output, (error,) = run(main, path, "--image-size", "12")
    assert (code, output) == (2, "")
    problem = "the classes 0, 1, 2, 3, 4, 5, 6, 7, a, b, the data of its run now have "
    assert error.endswith(problem + ", ".join("0123456789"))
