"""Sets of TensorFlow Datasets: small sets defined here go through the real code, without a network."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data.config import TfdsImagesConfig, TfdsTextConfig
from data.corpus import load_text
from data.images import load_images
from system.errors import DataError

POEMS = {
    "train": [f"poem {index}: " + "la " * (index % 7 + 1) for index in range(180)],
    "test": ["poem 3: la la la la ", "a poem of the test split", "another of them"],
}
CLASSES = ["circle", "square", "star"]


class TinyPoems(tfds.core.GeneratorBasedBuilder):
    """A text, a title and two splits."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {"verse": tfds.features.Text(), "title": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(poems) for split, poems in POEMS.items()}

    def _generate_examples(self, poems):
        for index, poem in enumerate(poems):
            yield index, {"verse": poem, "title": f"title {index}"}


class UnreachablePoems(TinyPoems):
    """A set whose server does not listen."""

    def _split_generators(self, dl_manager):
        dl_manager.download("http://127.0.0.1:9/poems.txt")


class DrawnFigures(tfds.core.GeneratorBasedBuilder):
    """Images of one size, of several sizes and of 16 bits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(5, 7, 3)),
            "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "depth": tfds.features.Image(shape=(5, 7, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "number": tfds.features.ClassLabel(num_classes=4),
            "title": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples("train", 70),
            "test": self._generate_examples("test", 9),
            "unlabelled": self._generate_examples("test", 3, label=-1),
        }

    def _generate_examples(self, split, count, label=None):
        for index in range(count):
            example = {
                "image": draw_image(index, split),
                "photo": draw_image(index, split, height=5 + index % 2),
                "depth": np.zeros((5, 7, 1), np.uint16),
                "label": index % 3 if label is None else label,
                "number": index % 4,
                "title": str(index),
            }
            yield index, example


def draw_image(index: int, split: str, *, height: int = 5) -> np.ndarray:
    """Pixels of the value 2 * index, plus 1 in the test split, with a white corner."""
    image = np.full((height, 7, 3), 2 * index + (split == "test"), np.uint8)
    image[0, 0] = 255
    return image


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Folder in which the sets are prepared once for all tests, and their cache."""
    path = tmp_path_factory.mktemp("tfds")
    for name in ("tiny_poems", "drawn_figures"):
        tfds.builder(name, data_dir=str(path)).download_and_prepare()
    return {"data_dir": str(path), "cache_dir": str(path / "cache")}


@pytest.fixture
def load_poems(folders):
    def load(*, report=lambda message: None, **options):
        options = {"tfds_name": "tiny_poems", "text_key": "verse"} | folders | options
        return load_text(TfdsTextConfig(**options), report=report)

    return load


@pytest.fixture
def load_figures(folders):
    def load(*, report=lambda message: None, **options):
        options = {"tfds_name": "drawn_figures"} | folders | options
        return load_images(TfdsImagesConfig(**options), report=report)

    return load


def documents_of(tokens: np.ndarray) -> list[str]:
    return tokens.tobytes().decode()[1:-1].split("\0")


def values_of(split) -> list[int]:
    """The pixel value of each image."""
    return split.images[:, -1, -1, 0].tolist()


def test_text_examples_are_documents_and_some_are_held_out(load_poems):
    corpus = load_poems()
    train, validation = documents_of(corpus.train), documents_of(corpus.validation)
    assert sorted(train + validation) == sorted(POEMS["train"])
    assert 1 <= len(validation) < 25  # 9 expected, standard deviation 3
    assert corpus.description.startswith("tfds tiny_poems/1.2.0: ")
    titles = load_poems(text_key="title")
    assert sorted(documents_of(titles.train) + documents_of(titles.validation))[0] == "title 0"


@pytest.mark.parametrize(
    ("train", "validation", "counts"),
    [
        ("train", "test", (180, 2)),
        ("train[:50%]", "train[150:160]+train[170:]", (90, 20)),
        ("train[:150]", "train[120:]", (150, 30)),
    ],
    ids=["with a repeated text", "disjoint", "overlapping"],
)
def test_text_splits_may_be_expressions_and_have_no_common_text(load_poems, train, validation, counts):
    corpus = load_poems(train_split=train, validation_split=validation)
    splits = [documents_of(tokens) for tokens in (corpus.train, corpus.validation)]
    assert tuple(map(len, splits)) == counts
    assert not set(splits[0]) & set(splits[1])


def test_download_is_reported_in_one_line_and_tfds_prints_nothing(load_poems, tmp_path, capfd):
    messages = []
    load_poems(data_dir=str(tmp_path / "new"), report=messages.append)
    load_poems(data_dir=str(tmp_path / "new"), report=messages.append)
    printed = capfd.readouterr()
    assert [message.split(" into ")[0] for message in messages] == [
        "downloading tiny_poems/1.2.0",
        "reading 180 examples of tfds tiny_poems/1.2.0",
    ]
    assert printed.out == ""
    assert "Generating" not in printed.err  # title of the progress bars
    assert "WARNING:absl" not in printed.err


def test_images_have_their_labels_splits_and_class_names(load_figures, tmp_path):
    messages = []
    found = load_figures(report=messages.append, cache_dir=str(tmp_path))
    assert messages == ["reading 79 examples of tfds_images drawn_figures/1.0.0"]
    assert found.classes == tuple(CLASSES)
    assert sorted(values_of(found.train)) == list(range(0, 140, 2))
    assert sorted(values_of(found.validation)) == list(range(1, 19, 2))
    for split in (found.train, found.validation):
        assert split.images.shape == (len(split.labels), 5, 7, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.labels, np.array(values_of(split)) // 2 % 3)
        assert (split.images[:, 0, 0] == 255).all()
        assert all(name.startswith(("train/", "test/")) for name in split.names)
    assert found.description == (
        "tfds_images drawn_figures/1.0.0: 70 images of 5x7x3 in 3 classes for training; "
        "9 of 79 (11 %) held out"
    )


def test_image_options_select_keys_and_sizes_and_are_part_of_the_cache_key(load_figures):
    numbers, photos = load_figures(label_key="number"), load_figures(image_key="photo", image_size=(4, 6))
    assert photos.train.images.shape == (70, 4, 6, 3)
    assert sorted(values_of(photos.validation)) == list(range(1, 19, 2))
    assert numbers.classes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(numbers.train.labels, np.array(values_of(numbers.train)) // 2 % 4)
    assert len({found.fingerprint for found in (load_figures(), numbers, photos)}) == 3


TEXT_MISTAKES = [
    ({"tfds_name": "tiny_poem"}, r"no set 'tiny_poem'; did you mean 'tiny_poems'\?$"),
    ({"tfds_name": "imdb_reviews/plan_text"}, r"plan_text not found .* closely match: plain_text"),
    ({"text_key": "text"}, r"data\.text_key=text is not a text .*choose one of title, verse$"),
    ({"tfds_name": "mnist"}, r"not a text of mnist/.*; it has none; choose another"),
    ({"train_split": "trian"}, r"data\.train_split=trian is not a split .*choose one of train, test,"),
    ({"train_split": "train[5:5]"}, r"data\.train_split=train\[5:5\] is not a split of .* with examples"),
    ({"validation_split": "train"}, r"no text is left for the validation split of 360 examples"),
    (
        {"tfds_name": "unreachable_poems"},
        r"unreachable_poems/1\.2\.0 could not be .* in .*/unreachable_poems/1.2.0: .*host='127\.0\.0\.1'.*"
        r"\. Check the network .* data\.data_dir=",
    ),
]
IMAGE_MISTAKES = [
    ({"image_key": "img"}, r"image_key=img is not a uint8 image .*choose one of image, photo$"),
    ({"image_key": "depth"}, r"image_key=depth is not a uint8 image "),
    ({"label_key": "title"}, r"label_key=title is not a class label .*of label, number$"),
    ({"validation_split": "unlabelled"}, r"unlabelled/0 has no label; choose a data\.validation_split with"),
    (
        {"train_split": "train[:90%]", "validation_split": "test+train"},
        r"data\.train_split=train\[:90%\] and data\.validation_split=test\+train share ex",
    ),
    ({"image_key": "photo"}, r"has images of \([56], 7, 3\) and \([56], 7, 3\); set data\.image_size="),
]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [("load_poems", *mistake) for mistake in TEXT_MISTAKES]
    + [("load_figures", *mistake) for mistake in IMAGE_MISTAKES],
    ids=str,
)
def test_mistake_raises_one_line(request, kind, options, message):
    with pytest.raises(DataError, match=message) as caught:
        request.getfixturevalue(kind)(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
