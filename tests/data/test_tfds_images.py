"""Image sets of TensorFlow Datasets: small sets of our own go through the real code, without a network."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data.config import TfdsImagesConfig
from data.images import load_images
from system.errors import DataError

COUNTS = {"train": 70, "test": 9}
NAMES = ["circle", "square", "star"]


def shape_image(index: int, split: str, *, height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    """Pixels that tell image and split."""
    image = np.full((height, width, channels), 2 * index + (split == "test"), np.uint8)
    image[0, 0] = 255
    return image


class DrawnFigures(tfds.core.GeneratorBasedBuilder):
    """A set with images of one size, one of several sizes, one of four channels and one of 16 bits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(5, 7, 3)),
            "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "layers": tfds.features.Image(shape=(5, 7, 4)),
            "depth": tfds.features.Image(shape=(5, 7, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(names=NAMES),
            "number": tfds.features.ClassLabel(num_classes=4),
            "only": tfds.features.ClassLabel(names=["shape"]),
            "same": tfds.features.ClassLabel(names=NAMES),
            "title": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in COUNTS.items()} | {
            "unlabelled": self._generate_examples("test", 3, label=-1)
        }

    def _generate_examples(self, split, count, label=None):
        for index in range(count):
            yield (
                index,
                {
                    "image": shape_image(index, split),
                    "photo": shape_image(index, split, height=5 + index % 2),
                    "layers": shape_image(index, split, channels=4),
                    "depth": np.zeros((5, 7, 1), np.uint16),
                    "label": index % 3 if label is None else label,
                    "number": index % 4,
                    "only": 0,
                    "same": 1,
                    "title": str(index),
                },
            )


class WordsAlone(tfds.core.GeneratorBasedBuilder):
    """A set without images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {}

    def _generate_examples(self):
        return iter(())


class FiguresWithoutClasses(DrawnFigures):
    """A set without classes."""

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(5, 7, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Where the set is prepared once for all tests."""
    path = tmp_path_factory.mktemp("tfds")
    tfds.builder("drawn_figures", data_dir=str(path)).download_and_prepare()
    return path


@pytest.fixture
def load(data_dir, tmp_path):
    def load(*, report=lambda message: None, **options):
        options = {"tfds_name": "drawn_figures", "data_dir": str(data_dir)} | options
        return load_images(TfdsImagesConfig(cache_dir=str(tmp_path / "cache"), **options), report=report)

    return load


def numbers(split) -> list[int]:
    return split.images[:, -1, -1, 0].tolist()


def test_images_come_with_their_labels_splits_and_class_names(load):
    found = load()
    assert found.classes == tuple(NAMES)
    assert sorted(numbers(found.train)) == list(range(0, 140, 2))
    assert sorted(numbers(found.validation)) == list(range(1, 19, 2))
    for split in (found.train, found.validation):
        assert split.images.shape == (len(split.labels), 5, 7, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.labels, np.array(numbers(split)) // 2 % 3)
        assert (split.images[:, 0, 0] == 255).all()
        assert split.names is None
    assert found.description == (
        "tfds_images drawn_figures/1.0.0: 70 images of 5x7x3 in 3 classes for training; 9 held out"
    )


def test_classes_without_names_are_numbers(load):
    found = load(label_key="number")
    assert found.classes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(found.train.labels, np.array(numbers(found.train)) // 2 % 4)


def test_any_number_of_channels_will_do(load):
    assert load(image_key="layers").train.images.shape == (70, 5, 7, 4)


def test_images_of_several_sizes_are_brought_to_one(load):
    found = load(image_key="photo", image_size=(4, 6))
    assert found.train.images.shape == (70, 4, 6, 3)
    assert sorted(numbers(found.validation)) == list(range(1, 19, 2))


def test_splits_may_be_expressions(load):
    found = load(train_split="train[:30]", validation_split="train[30:]+test")
    assert (len(found.train.labels), len(found.validation.labels)) == (30, 49)
    assert not set(numbers(found.train)) & set(numbers(found.validation))


def test_splits_may_meet_inside_a_file(load):
    found = load(train_split="train[:90%]", validation_split="train[90%:]")
    assert (len(found.train.labels), len(found.validation.labels)) == (63, 7)


def test_a_second_load_reads_no_example(load, monkeypatch):
    first = load()
    monkeypatch.setattr(DrawnFigures, "as_dataset", lambda *args, **kwargs: pytest.fail("read again"))
    second = load()
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert first.fingerprint == second.fingerprint


def test_what_is_asked_for_is_part_of_the_cache(load):
    changes = ({}, {"image_key": "layers"}, {"label_key": "number"}, {"image_size": (4, 4)})
    assert len({load(**options).fingerprint for options in changes}) == 4


def test_a_new_set_is_told_in_lines(load, tmp_path):
    messages = []
    load(data_dir=str(tmp_path / "new"), report=messages.append)
    assert [message.split(" into ")[0] for message in messages] == [
        "downloading drawn_figures/1.0.0",
        "reading 79 images of tfds_images drawn_figures/1.0.0",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tfds_name": "drawn_figure"}, r"no set 'drawn_figure'; did you mean drawn_figures\?"),
        ({"image_key": "img"}, r"image_key=img is not an image .*has: depth, image, layers, photo$"),
        ({"image_key": "title"}, r"image_key=title is not an image .*has: depth, image, layers, photo$"),
        ({"label_key": "title"}, r"label_key=title is not a class label .*has: label, number, only, same$"),
        (
            {"tfds_name": "words_alone"},
            r"data\.image_key=image is not an image of words_alone/1\.0\.0; it has none",
        ),
        (
            {"tfds_name": "figures_without_classes"},
            r"label_key=label is not a class label .*; it has none; choose",
        ),
        ({"image_key": "depth"}, r"image_key=depth .* holds uint16 pixels, not uint8; choose another"),
        (
            {"label_key": "only"},
            r"label_key=only of drawn_figures/1\.0\.0 has fewer than two classes; choose another",
        ),
        ({"label_key": "same"}, r"all training images are of one class, square; .* it takes two"),
        (
            {"validation_split": "unlabelled"},
            r"data\.validation_split=unlabelled .* has the label -1 at example 0, outside 0\.\.2; choose",
        ),
        ({"train_split": "trian"}, r"data\.train_split=trian is not a split .*has: train, test, unlabelled"),
        ({"validation_split": "dev"}, r"data\.validation_split=dev is not a split"),
        ({"train_split": "train[5:5]"}, r"data\.train_split=train\[5:5\] has no examples"),
        (
            {"train_split": "train[:40]", "validation_split": "test+train[39:]"},
            r"data\.train_split=train\[:40\] and data\.validation_split=test\+train\[39:\] share examples of "
            r"drawn_figures/1\.0\.0; choose splits apart, such as train\[:90%\] and train\[90%:\]$",
        ),
        ({"train_split": "all"}, r"train_split=all and data\.validation_split=test share examples"),
        ({"image_key": "photo"}, r"images of several sizes, [56]x7 and [56]x7; set data\.image_size="),
    ],
)
def test_a_mistake_is_told_in_one_line(load, options, message):
    with pytest.raises(DataError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
