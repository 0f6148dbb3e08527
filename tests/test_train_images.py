"""Runs of train.py on images, in this process: a tiny vision transformer is trained on digits."""

import functools
import json
import os
import signal

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn import datasets
from sklearn.model_selection import train_test_split

from runs.plots import plot_predictions
from system.text import format_command
from tests.comparison import events_of, rows_of, tensors_of
from tests.run_helpers import STILL, assert_mentions, assert_same_tensors, refusal
from training.hardware import describe_device
from training.run_log import RunLog

NUM_HELD_OUT = 360
PNG = b"\x89PNG"


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture
def train(image_workplace):
    return image_workplace.train


@pytest.fixture
def refused(image_workplace, capsys):
    return functools.partial(refusal, image_workplace, capsys)


def test_loss_starts_at_chance_and_changes(trained_images):
    """Twelve steps are too few to learn digits; the test with colored photographs shows learning."""
    rows = rows_of(trained_images)
    assert rows[0]["loss"] == pytest.approx(np.log(10), abs=1e-5)  # the head is initialised to zero
    assert rows[-1]["validation_loss"] != pytest.approx(np.log(10), abs=1e-4)


def test_run_writes_its_files(trained_images):
    assert sorted(path.name for path in trained_images.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "confusion.png",
        "loss.png",
        "metrics.jsonl",
        "predictions.png",
        "summary.json",
        "tensorboard",
    ]
    for name in ("confusion.png", "loss.png", "predictions.png"):
        assert (trained_images / name).read_bytes().startswith(PNG)
    rows = rows_of(trained_images)
    assert [row["step"] for row in rows] == [1, 3, 4, 6, 8, 9, 12]
    assert [row["images"] for row in rows] == [row["step"] * 16 for row in rows]
    for measure in ("validation_loss", "accuracy", "top_5_accuracy"):
        assert [row["step"] for row in rows if measure in row] == [4, 8, 12]
    assert not any("sample" in row for row in rows)
    raw = [json.loads(line) for line in (trained_images / "metrics.jsonl").read_text().splitlines()]
    assert raw[-1]["images_per_second"] > 0


def test_config_records_the_values_taken_from_the_images(trained_images):
    config = yaml.safe_load((trained_images / "config.yaml").read_text())
    model = {key: config["model"][key] for key in ("image_size", "channels", "num_classes", "patch_size")}
    assert model == {"image_size": [8, 8], "channels": 1, "num_classes": 10, "patch_size": 2}
    assert config["context_length"] is None
    assert config["data"]["image_size"] is None


def test_checkpoint_records_the_normalisation_of_the_images(trained_images):
    manifest = json.loads((trained_images / "checkpoints" / "step-00000012" / "manifest.json").read_text())
    digits = datasets.load_digits()
    train, _ = train_test_split(digits.images / 16, test_size=0.2, stratify=digits.target, random_state=0)
    assert manifest["classes"] == list("0123456789")
    # Pixels in 16 steps are stored in 255.
    np.testing.assert_allclose(manifest["mean"], [train.mean()], atol=1e-3)
    np.testing.assert_allclose(manifest["deviation"], [train.std()], atol=1e-3)


def test_summary_has_the_confusion_matrix(trained_images):
    summary = summary_of(trained_images)
    confusion = np.array(summary["confusion_matrix"])
    target = datasets.load_digits().target
    _, held_out = train_test_split(target, test_size=0.2, stratify=target, random_state=0)
    assert summary["classes"] == list("0123456789")
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(held_out))
    assert np.trace(confusion) / confusion.sum() == pytest.approx(summary["accuracy"], abs=1e-9)
    assert summary["accuracy"] < summary["top_5_accuracy"] < 1
    assert (summary["name"], summary["step"], summary["images"]) == ("whole", 12, 192)
    lines = (trained_images / "summary.json").read_text().splitlines()
    assert f' "confusion_matrix": {json.dumps(summary["confusion_matrix"])},' in lines
    assert set(summary["mistakes"][0]) == {"index", "class", "predicted", "probability"}


def test_sigterm_saves_and_the_resumed_run_is_bit_exact(trained_images, image_workplace, monkeypatch, capsys):
    """Augmentation and stochastic depth are enabled; the run stops between two checkpoints."""
    run = image_workplace.outputs / "stopped"
    step_took, seconds = RunLog.step_took, []

    def terminate_in_step_6(log, *arguments):
        step_took(log, *arguments)
        seconds.append(arguments)
        if len(seconds) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step_took", terminate_in_step_6)
        assert image_workplace.train("name=stopped") == 143
    assert "stopped after step 6 by SIGTERM, saved; the same command" in capsys.readouterr().out
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step-00000006"
    assert not (run / "summary.json").exists()

    groups_drawn = []

    def plot(path, groups):
        groups_drawn.append(list(groups))
        plot_predictions(path, groups)

    monkeypatch.setattr("runs.image_task.plot_predictions", plot)
    assert image_workplace.train("name=stopped") == 0
    assert groups_drawn == [["held-out images"], ["held-out images", "mistakes, most confident first"]]
    output = capsys.readouterr().out
    accuracy = summary_of(run)["accuracy"]
    for text in (
        "4x4 patches of 2x2 pixels, full attention, position axial",
        "12 steps of 16 images, 192 in all (0.13 epochs)",
        f"{describe_device()}, precision float32 (as set), compile graph (as set)",
        f"-m tensorboard.main --logdir {run}",
        "digits: 1,437 images of 8x8x1 in 10 classes for training; 360 of 1,797 (20.0 %) held out",
        "resuming after step 6",
        f"{round(accuracy * 360)} of 360 ({100 * accuracy:.1f} %) held-out images correct, loss ",
        "next: " + format_command("-m", "scripts.evaluate", run),
    ):
        assert text in output
    assert_same_tensors(tensors_of(run), tensors_of(trained_images))
    assert rows_of(run) == rows_of(trained_images)
    events = events_of(run)
    assert events == events_of(trained_images)
    assert [step for step, name in events if name == "predictions"] == [8, 12]
    assert [step for step, name in events if name == "confusion"] == [12]
    for name in ("predictions.png", "confusion.png"):
        assert (run / name).read_bytes() == (trained_images / name).read_bytes()


def test_other_image_size_in_a_run_directory_is_refused(refused, trained_images):
    (line,) = refused("name=whole", "data.image_size=[12,12]", "data.augment.flip=true", label="config error")
    assert_mentions(line, str(trained_images), "data.image_size", "[12,12]", "data.augment.flip", "name=")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.image_size=[7,7]"], ["digits", "patch_size", "7x7"]),
        (["model.channels=3"], ["digits", "channels", "3", "1"]),
    ],
)
def test_options_that_do_not_fit_the_images_are_a_one_line_error(refused, trained_images, changes, words):
    (line,) = refused("name=wrong", *changes)
    assert_mentions(line, *words)


COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
GREY = (120, 120, 120)


def write_photos(folder, *, classes=tuple(COLOURS), count=6, mode="RGB"):
    """Noisy images of one color per class, of several sizes."""
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(-30, 30, size=(9 + number, 17, 3)) + COLOURS.get(name, GREY)
            Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(folder / name / f"{number}.png")
    return folder


def photos(folder, name, *changes):
    places = [f"data.path={folder}", f"data.cache_dir={folder.parent / 'cache'}"]
    size = "data.image_size=[8,12]"
    return [f"name={name}", "data=image_folder", *places, size, *changes]


def test_image_folder_is_learned_and_refused_once_it_has_changed(
    image_workplace, train, refused, tmp_path, capsys
):
    folder = write_photos(tmp_path / "photos")
    (folder / "red" / "damaged.png").write_text("not an image")
    command = photos(folder, "photos", "data.invalid=skip")
    assert train(*command) == 0
    assert "skipped red/damaged.png: not an image in a supported format" in capsys.readouterr().out
    run = image_workplace.outputs / "photos"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["image_size"] == [8, 12]
    assert (config["model"]["channels"], config["model"]["num_classes"]) == (3, 3)
    summary = summary_of(run)
    assert summary["classes"] == ["blue", "green", "red"]
    assert summary["accuracy"] == 1
    assert "top_5_accuracy" not in summary
    assert summary["mistakes"] == []
    write_photos(folder, classes=["grey"])
    (line,) = refused(*command)
    assert_mentions(line, "image_folder do not fit the model: num_classes is 3, but the data has 4")


def test_init_from_continues_at_a_larger_image_size(image_workplace, train, trained_images, capsys):
    """The weights are those of the parent, and a scaling starts from its patch grid."""
    scaling = ("model.rope.scaling.type=yarn", "model.rope.scaling.factor=[2.0,3.0]")
    command = ("name=larger", f"init_from={trained_images}", "data.image_size=[12,16]", *scaling, *STILL)
    assert train(*command) == 0
    output = capsys.readouterr().out
    assert "model.image_size" in output and "6x8 patches of 2x2 pixels" in output
    run = image_workplace.outputs / "larger"
    old, new = tensors_of(trained_images), tensors_of(run)
    for name in (name for name in old if name.startswith("model/")):
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    scaling = yaml.safe_load((run / "config.yaml").read_text())["model"]["rope"]["scaling"]
    assert (scaling["factor"], scaling["original_max_position_embeddings"]) == ([2.0, 3.0], [4, 4])
