"""The user's own images: from one folder for each class to a set in the cache."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import ImageFolderConfig
from data.image_files import read_image
from data.images import load_images
from system.errors import DataError

SIZE = (6, 8)


def write(path: Path, value: int, *, size: tuple[int, int] = SIZE, mode: str = "RGB") -> None:
    """Writes a PNG of one grey, whatever the extension of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode == "L" else (value,) * 3).save(path, "PNG")


def write_classes(root: Path, *counts: int) -> Path:
    """Writes classes a, b, ... of distinct images."""
    for label, count in enumerate(counts):
        for index in range(count):
            write(root / "abcdefghij"[label] / f"{index}.png", 24 * label + index)
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of 40 and 30 images; the grey of an image is its number, even for cats and odd for dogs."""
    for index in range(40):
        write(tmp_path / "photos" / "cat" / f"{index}.png", 2 * index)
    for index in range(30):
        write(tmp_path / "photos" / "dog" / "some" / f"{index}.jpg", 2 * index + 1)
    return tmp_path / "photos"


@pytest.fixture
def split_folder(tmp_path) -> Path:
    """Two classes in the two splits train and test."""
    for split, count in (("train", 5), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                value = 100 * (split == "test") + 10 * label + index
                write(tmp_path / "split" / split / name / f"{index}.png", value)
    return tmp_path / "split"


def load(folder, *, report=lambda message: None, **options):
    options = {"path": str(folder), "cache_dir": str(folder.parent / "cache"), "image_size": SIZE} | options
    return load_images(ImageFolderConfig(**options), report=report)


def messages_of(folder, **options) -> list[str]:
    messages = []
    load(folder, report=messages.append, **options)
    return messages


def greys(split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def test_every_image_is_in_one_split_with_its_class_and_file_name(folder):
    found = load(folder)
    assert found.classes == ("cat", "dog")
    assert {*greys(found.train), *greys(found.validation)} == {*range(0, 80, 2), *range(1, 60, 2)}
    assert len(found.train.labels) + len(found.validation.labels) == 70
    for split in (found.train, found.validation):
        assert split.images.shape == (len(split.labels), *SIZE, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.labels, np.array(greys(split)) % 2)
        assert (split.images == split.images[:, :1, :1, :1]).all()
        for name, grey in zip(split.names, greys(split), strict=True):
            assert name == (f"dog/some/{grey // 2}.jpg" if grey % 2 else f"cat/{grey // 2}.png")
    assert np.bincount(found.validation.labels).tolist() == [8, 6]  # 20 % of 40 and of 30


def test_most_files_keep_their_split_when_others_are_added(folder):
    before = load(folder)
    for index in range(40, 60):
        write(folder / "cat" / f"{index}.png", 2 * index)
    after = load(folder)
    moved = set(before.train.names) ^ set(after.train.names) - {f"cat/{index}.png" for index in range(40, 60)}
    assert len(moved) <= 7  # all of the dogs stay


@pytest.mark.parametrize(
    ("counts", "held_out", "expected"),
    [
        ((7,) * 10, 0.2, [1, 2, 1, 2, 1, 1, 2, 1, 2, 1]),  # 14 of 70
        ((3, 10, 2), 0.5, [2, 4, 1]),
        ((9, 3), 0.05, [1, 1]),  # at least one of each class
        ((2,) * 5, 0.999, [1] * 5),  # and not all
    ],
)
def test_share_of_each_class_is_held_out(tmp_path, counts, held_out, expected):
    found = load(write_classes(tmp_path / "photos", *counts), held_out=held_out)
    assert np.bincount(found.validation.labels).tolist() == expected
    total, chosen = sum(counts), sum(expected)
    assert found.description == (
        f"image_folder {tmp_path}/photos: {total - chosen} images of 6x8x3 in {len(counts)} classes for "
        f"training; {chosen} of {total} ({100 * chosen / total:.0f} %) held out; cropped to the center and "
        "resized to that size"
    )


def test_duplicates_are_counted_and_used_once(folder, split_folder):
    before = load(folder)
    for number in range(3):
        shutil.copy(folder / "cat" / "7.png", folder / "dog" / f"copy {number}.png")
    assert messages_of(folder)[1:] == ["skipped dog/copy 0.png: equals cat/7.png, first of 3 duplicates"]
    assert load(folder).fingerprint == before.fingerprint
    shutil.copy(split_folder / "train" / "cat" / "0.png", split_folder / "test" / "cat" / "again.png")
    (line,) = messages_of(split_folder)[1:]
    assert line == "skipped test/cat/again.png: equals train/cat/0.png, first of 1 duplicate"
    assert len(load(split_folder).validation.labels) == 6


def test_splits_and_duplicates_do_not_depend_on_the_image_size(folder):
    """At 1x1 pixels, two halves of equal sums have the same pixel."""
    for name, halves in (("cat", [10, 70]), ("dog", [70, 10])):
        pixels = np.tile(np.repeat(halves, 4), (6, 1)).astype(np.uint8)  # (6, 8)
        Image.fromarray(pixels).save(folder / name / "half.png")
    splits = [load(folder, image_size=size) for size in (SIZE, (1, 1))]
    (train, validation), others = [(found.train.names, found.validation.names) for found in splits]
    assert (train, validation) == others
    assert len(train + validation) == 72


def test_existing_splits_are_used(split_folder):
    found = load(split_folder)
    assert greys(found.train) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert greys(found.validation) == [100, 101, 102, 110, 111, 112]
    assert found.train.names[0] == "train/cat/0.png"
    with pytest.raises(DataError, match=r"data\.held_out has no effect: .*/split is split into"):
        load(split_folder, held_out=0.3)
    (split_folder / "train").rename(split_folder / "training")
    (split_folder / "test").rename(split_folder / "testing")
    assert load(split_folder).fingerprint == found.fingerprint
    for name in ("cat", "dog"):
        write(split_folder / "validation" / name / "0.png", 50 + len(name) + ord(name[0]))
    assert len(load(split_folder).validation.labels) == 2  # used before the folder `testing`


def test_other_files_are_skipped_and_counted(folder):
    before = load(folder).fingerprint
    for name in (".hidden/a.png", "dog/.thumbs/1.png", "README.md"):  # hidden folders, and outside a class
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image")
    assert messages_of(folder) == []
    for name in ("cat/.DS_Store", "cat/._1.png", "dog/some/Thumbs.db", "dog/labels.JSON", "dog/list.txt"):
        (folder / name).write_text("no image")
    assert messages_of(folder) == ["skipped 5 files that cannot be images, first: cat/.DS_Store"]
    assert load(folder).fingerprint == before


def test_images_are_resized_unless_image_size_is_null(folder):
    assert load(folder, image_size=None).fingerprint == load(folder).fingerprint
    write(folder / "cat" / "large.png", 99, size=(300, 200))
    found = load(folder, image_size=(4, 5))
    assert found.train.images.shape[1:] == (4, 5, 3)
    assert load(folder, image_size=(5, 4)).fingerprint != found.fingerprint
    with pytest.raises(DataError, match=r"images of \(6, 8, 3\) and \(300, 200, 3\); set data\.image_size="):
        load(folder, image_size=None)


def test_grey_images_have_one_channel_unless_one_has_color(folder):
    for number, path in enumerate(folder.rglob("*.*")):
        write(path, number, mode="L")
    assert load(folder).train.images.shape[1:] == (*SIZE, 1)
    write(folder / "cat" / "color.png", 7)
    assert load(folder).train.images.shape[1:] == (*SIZE, 3)


def test_prediction_reads_a_file_like_training(folder):
    write(folder / "cat" / "0.png", 177, size=(20, 30))
    found = load(folder)
    for split in (found.train, found.validation):
        for name, image in zip(split.names, split.images, strict=True):
            np.testing.assert_array_equal(read_image(folder / name, image_size=SIZE, channels=3), image)


def test_invalid_files_raise_or_are_skipped(folder):
    expected = load(folder).fingerprint
    (folder / "dog" / "0.jpeg").write_text("not an image")
    (folder / "dog" / "gone.jpeg").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"^dog/0\.jpeg: not an image .*set data\.invalid=skip$"):
        load(folder)
    messages = []
    skipping = load(folder, invalid="skip", report=messages.append)
    assert skipping.fingerprint == expected
    assert messages == [
        f"reading 72 images of image_folder {folder}",
        "skipped dog/0.jpeg: not an image in a supported format",
        f"skipped dog/gone.jpeg: cannot read {folder}/dog/gone.jpeg: No such file or directory",
    ]
    assert messages_of(folder, invalid="skip") == messages[1:]


# Message, and the change of the folder that causes it.
MISTAKES = {
    r"data\.path=.* is not a folder; choose that of the classes": shutil.rmtree,
    r"photos has too few class folders: none; .* two: .*/photos/CLASS/\*, or .*/photos/train/CLASS/\*": (
        lambda folder: (shutil.rmtree(folder), folder.mkdir())
    ),
    r"the class folder .*/photos/__MACOSX has no image: remove it or add images": (
        lambda folder: (
            (folder / "__MACOSX" / "cat").mkdir(parents=True),
            (folder / "__MACOSX" / "cat" / "._1.png").write_text("of the Finder"),
        )
    ),
    r"the validation split has no usable image of bird; add images or remove the class": (
        lambda folder: write(folder / "bird" / "1.png", 255)
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake_raises_one_line(folder, message):
    MISTAKES[message](folder)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_existing_splits_need_the_same_classes_with_images(split_folder):
    write(split_folder / "train" / "bird" / "1.png", 5)
    write(split_folder / "test" / "cow" / "1.png", 5)
    with pytest.raises(DataError, match="differ: bird, cow; both need the same"):
        load(split_folder)
    shutil.rmtree(split_folder / "train" / "bird")
    shutil.rmtree(split_folder / "test" / "cow")
    for path in (split_folder / "train" / "dog").iterdir():
        path.write_text("no image")
    message = (
        r"train split has no usable image of dog \(5 skipped, first: train/dog/0\.png: not an.*; add images"
    )
    with pytest.raises(DataError, match=message):
        load(split_folder, invalid="skip")
