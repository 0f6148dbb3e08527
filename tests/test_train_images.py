"""Whole runs of train.py on images, in this process: a tiny vision transformer really trains on digits."""

import functools
import json
import os
import shutil
import signal

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn import datasets
from sklearn.model_selection import train_test_split

from tests.comparison import rows_of, tensors_of
from tests.run_helpers import (
    assert_same_tensors,
    contents_of,
    copy_of,
    refusal,
)
from training.run_log import RunLog

NUM_HELD_OUT = 360
PNG = b"\x89PNG"
# One step that leaves the weights as they came.
STILL = ("num_steps=1", "optimizer.learning_rate=1e-30", "optimizer.weight_decay=0")


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture
def train(image_workplace):
    return image_workplace.train


@pytest.fixture
def refused(image_workplace, capsys):
    return functools.partial(refusal, image_workplace, capsys)


def test_a_run_begins_at_chance_and_moves(trained_images):
    """Twelve steps teach a tiny model little; that one learns, the test with coloured photographs shows."""
    rows = rows_of(trained_images)
    assert rows[0]["loss"] == pytest.approx(np.log(10), abs=1e-5)  # the head begins at zero
    assert rows[-1]["validation_loss"] != pytest.approx(np.log(10), abs=1e-4)


def test_a_run_writes_its_files(trained_images):
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


def test_the_config_records_what_the_model_takes_from_the_images(trained_images):
    config = yaml.safe_load((trained_images / "config.yaml").read_text())
    model = {key: config["model"][key] for key in ("image_size", "channels", "num_classes", "patch_size")}
    assert model == {"image_size": [8, 8], "channels": 1, "num_classes": 10, "patch_size": 2}
    assert config["context_length"] is None
    assert config["data"]["image_size"] is None


def test_a_checkpoint_records_how_images_are_normalised(trained_images):
    manifest = json.loads((trained_images / "checkpoints" / "step-00000012" / "manifest.json").read_text())
    digits = datasets.load_digits()
    train, _ = train_test_split(digits.images / 16, test_size=0.2, stratify=digits.target, random_state=0)
    assert manifest["classes"] == list("0123456789")
    # Pixels in 16 steps are stored in 255.
    np.testing.assert_allclose(manifest["mean"], [train.mean()], atol=1e-3)
    np.testing.assert_allclose(manifest["deviation"], [train.std()], atol=1e-3)


def test_the_summary_counts_what_each_class_was_taken_for(trained_images):
    summary = summary_of(trained_images)
    confusion = np.array(summary["confusion_matrix"])
    target = datasets.load_digits().target
    _, held_out = train_test_split(target, test_size=0.2, stratify=target, random_state=0)
    assert summary["classes"] == list("0123456789")
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(held_out))
    assert np.trace(confusion) / confusion.sum() == pytest.approx(summary["accuracy"], abs=1e-9)
    assert summary["accuracy"] < summary["top_5_accuracy"] < 1
    assert (summary["name"], summary["step"], summary["images"]) == ("whole", 12, 192)


def test_a_row_of_the_confusion_matrix_is_a_line_of_the_summary(trained_images):
    lines = (trained_images / "summary.json").read_text().splitlines()
    row = json.dumps(summary_of(trained_images)["confusion_matrix"][3])
    assert f"  {row}," in lines


def test_a_mistake_is_a_line_of_the_summary(trained_images):
    lines = (trained_images / "summary.json").read_text().splitlines()
    mistakes = summary_of(trained_images)["mistakes"]
    assert f"  {json.dumps(mistakes[0])}," in lines
    assert set(mistakes[0]) == {"index", "class", "predicted", "probability"}


def test_the_end_of_a_run_draws_its_predictions_once(trained_images, train, monkeypatch):
    run = copy_of(trained_images, "drawn")
    (run / "summary.json").unlink()
    drawn = []
    monkeypatch.setattr("runs.image_task.plot_predictions", lambda path, groups: drawn.append(list(groups)))
    assert train("name=drawn") == 0
    assert drawn == [["held-out images", "most confident mistakes"]]


def test_a_finished_run_stays_as_it_is(trained_images, train, capsys):
    before = contents_of(trained_images)
    assert train("name=whole") == 0
    assert "This run is complete" in capsys.readouterr().out
    assert contents_of(trained_images) == before


def test_a_run_says_what_it_is_and_what_comes_next(trained_images, train, capsys):
    run = copy_of(trained_images, "told")
    (run / "summary.json").unlink()
    capsys.readouterr()
    assert train("name=told") == 0
    output = capsys.readouterr().out
    assert "images 8x8x1 in 4x4 patches of 2x2 pixels, position axial, full attention" in output
    assert "recipe: 12 steps of 16 images, 192 in all" in output
    assert "digits: 1,437 images of 8x8x1 in 10 classes for training; 360 held out" in output
    assert f"accuracy {summary_of(run)['accuracy']:.2%} held out" in output
    assert f"next: python -m scripts.evaluate {run} --image-size 8x8 12x12 16x16" in output


def test_a_run_that_was_asked_to_stop_saves_and_ends_as_one_that_was_not(
    trained_images, image_workplace, monkeypatch, capsys
):
    """With augmentation and stochastic depth; the step is between two checkpoints."""
    run = image_workplace.outputs / "stopped"
    step_took, seconds = RunLog.step_took, []

    def ask_in_step_6(log, *arguments):
        step_took(log, *arguments)
        seconds.append(arguments)
        if len(seconds) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step_took", ask_in_step_6)
        assert image_workplace.train("name=stopped") == 143
    assert "stopped after step 6, saved. The same command resumes from there." in capsys.readouterr().out
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step-00000006"
    assert not (run / "summary.json").exists()

    assert image_workplace.train("name=stopped") == 0
    assert "resuming after step 6" in capsys.readouterr().out
    assert_same_tensors(tensors_of(run), tensors_of(trained_images))
    assert rows_of(run) == rows_of(trained_images)
    for name in ("predictions.png", "confusion.png"):
        assert (run / name).read_bytes() == (trained_images / name).read_bytes()


@pytest.fixture(scope="module")
def still_row(trained_images, image_workplace):
    """Loss and measures of a finished run after one more step, under other options."""

    def row(name, *changes):
        command = [f"name={name}", f"init_from={trained_images}", *STILL, *changes]
        assert image_workplace.train(*command) == 0
        return rows_of(image_workplace.outputs / name)[-1]

    return row


@pytest.fixture(scope="module")
def plain_row(still_row):
    return still_row("plain")


@pytest.mark.parametrize("change", ["label_smoothing=0.3", "model.drop_path=0", "data.augment.rotation=0"])
def test_an_option_of_training_changes_its_loss_and_not_what_is_measured(still_row, plain_row, change):
    row = still_row(change.partition("=")[0].rpartition(".")[2], change)
    assert row["loss"] != pytest.approx(plain_row["loss"], rel=1e-4)
    measures = ("validation_loss", "accuracy", "top_5_accuracy")
    assert {key: row[key] for key in measures} == {key: plain_row[key] for key in measures}


def test_another_image_size_in_a_run_directory_is_refused(refused, trained_images):
    (line,) = refused("name=whole", "data.image_size=[12,12]", "data.augment.flip=true", label="config error")
    assert line == (
        f"{trained_images} is a run of another config: data.image_size is null there, [12,12] here; "
        "data.augment.flip is false there, true here. Use name= for another run."
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            ["data.image_size=[9,8]", "model.patch_size=2"],
            "error: the images of digits do not suit the model: patch_size must divide both sides of the "
            "images, got 2 for 9x8; model.patch_size=null chooses one for a new model",
        ),
        (
            ["data.image_size=[7,7]"],
            "error: the images of digits do not suit the model: patch_size must be set: no size from 2 up "
            "divides 7x7 into 2 to 64 patches. Set it, or resize the images.",
        ),
        (
            ["model.channels=3"],
            "error: the images of digits do not suit the model: channels is 3, but the data has 1. "
            "Leave it null, or change one.",
        ),
        (
            ["data=python_stdlib"],
            "config error: data.source 'python_stdlib' is text, but the model is a vision transformer: "
            "choose images, such as data=digits, or leave out experiment=vit",
        ),
        (
            ["context_length=64"],
            "config error: context_length must be null for a vision transformer, got 64",
        ),
        (
            ["model.pooling=class_token", "model.attention=axial"],
            "config error: model.pooling class_token needs attention=full: a class token is in no row and "
            "no column",
        ),
    ],
)
def test_what_does_not_fit_together_is_told_in_a_line(refused, trained_images, changes, problem):
    label, _, message = problem.partition(": ")
    (line,) = refused("name=wrong", *changes, label=label)
    assert line == message


def test_images_need_the_experiment(workplace, trained_run, capsys):
    (line,) = refusal(
        workplace,
        capsys,
        "name=wrong",
        "data=digits",
        "~data.held_out",
        "~data.path",
        "~data.cache_dir",
        label="config error",
    )
    assert line == (
        "data.source 'digits' is images, but the model is a language model: choose text, such as "
        "data=python_stdlib, or add experiment=vit"
    )


def test_weights_of_the_other_kind_of_model_are_refused(
    trained_run, trained_images, workplace, refused, capsys
):
    (line,) = refused("name=wrong", f"init_from={trained_run}", label="config error")
    assert line == (f"init_from={trained_run} is a run of model.architecture transformer_lm, not axial_vit")
    command = ("name=wrong", f"init_from={trained_images}")
    (line,) = refusal(workplace, capsys, *command, label="config error")
    assert line == (
        f"init_from={trained_images} is a run of model.architecture axial_vit, not transformer_lm"
    )


COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def write_photos(folder, *, classes=tuple(COLOURS), count=6):
    """Images of one colour and some noise, of several sizes."""
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(-30, 30, size=(9 + number, 17, 3)) + COLOURS[name]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def photos(folder, name, *changes):
    places = [f"data.path={folder}", f"data.cache_dir={folder.parent / 'cache'}"]
    size = "data.image_size=[8,12]"
    return [f"name={name}", "data=image_folder", *places, size, *changes]


def test_a_folder_of_photographs_is_learned(image_workplace, train, tmp_path, capsys):
    folder = write_photos(tmp_path / "photos")
    (folder / "red" / "notes.txt").write_text("not an image")
    assert train(*photos(folder, "photos", "data.invalid=skip")) == 0
    assert "skipped red/notes.txt: not an image that Pillow can read" in capsys.readouterr().out
    run = image_workplace.outputs / "photos"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["image_size"] == [8, 12]
    assert (config["model"]["channels"], config["model"]["num_classes"]) == (3, 3)
    summary = summary_of(run)
    assert summary["classes"] == ["blue", "green", "red"]
    assert summary["accuracy"] == 1
    assert "top_5_accuracy" not in summary
    assert summary["mistakes"] == []
    whole = tensors_of(run)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "summary.json").unlink()
    assert train(*photos(folder, "photos", "data.invalid=skip")) == 0
    assert_same_tensors(tensors_of(run), whole)


def test_a_folder_that_has_changed_since_the_run_began_is_told(image_workplace, train, refused, tmp_path):
    folder = write_photos(tmp_path / "photos", classes=["red", "green"])
    command = photos(folder, "changing", "num_steps=1")
    assert train(*command) == 0
    write_photos(folder, classes=["blue"])
    (line,) = refused(*command)
    assert line == (
        "the data have changed since this run began: num_classes was 2, now it is 3. "
        "To use the current data, start a new run: name=NEW"
    )


def test_weights_for_other_channels_and_classes_are_refused(refused, trained_images, tmp_path):
    folder = write_photos(tmp_path / "photos")
    command = photos(folder, "wrong", "data.image_size=[8,8]", f"init_from={trained_images}")
    (line,) = refused(*command, label="config error")
    assert line == (
        f"the weights of init_from={trained_images} are of another model: "
        "model.channels is 1 there, 3 here; model.num_classes is 10 there, 3 here"
    )


def test_a_folder_that_makes_no_set_is_told_in_a_line(refused, trained_images, tmp_path):
    one = write_photos(tmp_path / "one", classes=["red"])
    (line,) = refused(*photos(one, "wrong"))
    assert line.startswith(f"{one} has 1 class folder (red); classification needs at least two")

    empty = write_photos(tmp_path / "empty", classes=["red", "blue"])
    (empty / "grey").mkdir()
    (line,) = refused(*photos(empty, "wrong"))
    assert line == f"the class folder {empty / 'grey'} is empty; add images or remove it"

    damaged = write_photos(tmp_path / "damaged", classes=["red", "blue"])
    (damaged / "red" / "2.png").write_text("not an image")
    (line,) = refused(*photos(damaged, "wrong"))
    assert line == (
        "red/2.png: not an image that Pillow can read; fix or remove the file, or set data.invalid=skip"
    )


def test_the_same_weights_go_on_at_a_larger_size(image_workplace, train, trained_images, capsys):
    command = ("name=larger", f"init_from={trained_images}", "data.image_size=[12,16]", *STILL)
    assert train(*command) == 0
    output = capsys.readouterr().out
    assert "unlike init_from: model.image_size is [8,8] there, [12,16] here" in output
    assert "images 12x16x1 in 6x8 patches of 2x2 pixels" in output
    old, new = tensors_of(trained_images), tensors_of(image_workplace.outputs / "larger")
    for name in (name for name in old if name.startswith("model/")):
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)


def test_a_scaled_child_records_the_grid_of_its_parent_and_goes_on(
    image_workplace, train, trained_images, capsys
):
    scaling = ("model.rope.scaling.type=yarn", "model.rope.scaling.factor=[2.0,3.0]")
    command = ("name=scaled", f"init_from={trained_images}", "data.image_size=[12,16]", *scaling, *STILL)
    assert train(*command) == 0
    config = yaml.safe_load((image_workplace.outputs / "scaled" / "config.yaml").read_text())
    found = config["model"]["rope"]["scaling"]
    assert (found["factor"], found["original_max_position_embeddings"]) == ([2.0, 3.0], [4, 4])
    capsys.readouterr()
    assert train(*command) == 0
    assert "This run is complete" in capsys.readouterr().out


def test_learned_positions_are_stretched_over_a_larger_image_when_asked(
    image_workplace, train, refused, capsys
):
    assert train("name=learned", "model.position=learned", "num_steps=1") == 0
    parent = image_workplace.outputs / "learned"
    command = ("name=stretched", f"init_from={parent}", "model.position=learned", "data.image_size=[12,16]")
    (line,) = refused(*command, *STILL, label="config error")
    assert line == (
        f"model.position=learned has weights for images of 8x8 in init_from={parent}, not for images of "
        "12x16: set resample_positions=true to resample them, or use rotary positions"
    )
    assert train(*command, *STILL, "resample_positions=true") == 0
    assert "position_embedding is resampled from images of 8x8" in capsys.readouterr().out
    new = tensors_of(image_workplace.outputs / "stretched")
    assert new["model/axial_vit/position_embedding"].shape == (6 * 8, 16)
