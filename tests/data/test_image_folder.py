"""The user's own images: from one folder a class to a set in the cache."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import disk_cache, image_folder, images, progress
from data.config import ImageFolderConfig
from data.image_files import read_image
from data.images import load_images
from system.errors import DataError

SIZE = (6, 8)


def write(path: Path, value: int, *, size: tuple[int, int] = SIZE, mode: str = "RGB") -> None:
    """A PNG of one grey, under whatever name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode == "L" else (value,) * 3).save(path, "PNG")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of 40 and 30 images; an image's grey is its number, cats even and dogs odd."""
    for index in range(40):
        write(tmp_path / "photos" / "cat" / f"{index}.png", 2 * index)
    for index in range(30):
        write(tmp_path / "photos" / "dog" / "some" / f"{index}.jpg", 2 * index + 1)
    return tmp_path / "photos"


@pytest.fixture
def divided(tmp_path) -> Path:
    """Two classes in two splits."""
    for split, count in (("train", 5), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                write(tmp_path / "divided" / split / name / f"{index}.png", 100 * (split == "test") + label)
    return tmp_path / "divided"


def load(folder, *, report=lambda message: None, **options):
    options = {"path": str(folder), "cache_dir": str(folder.parent / "cache"), "image_size": SIZE} | options
    return load_images(ImageFolderConfig(**options), report=report)


def messages_of(folder, **options) -> list[str]:
    messages = []
    load(folder, report=messages.append, **options)
    return messages


def greys(split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def test_every_image_is_on_one_side_under_its_class(folder):
    found = load(folder)
    assert found.classes == ("cat", "dog")
    assert sorted(greys(found.train) + greys(found.validation)) == sorted(
        [*range(0, 80, 2), *range(1, 60, 2)]
    )
    for split in (found.train, found.validation):
        assert split.images.shape == (len(split.labels), *SIZE, 3)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.labels, np.array(greys(split)) % 2)
        assert (split.images == split.images[:, :1, :1, :1]).all()
    assert 3 <= len(found.validation.labels) <= 28  # 14 expected, standard deviation 3.3


def test_an_image_knows_its_file(folder):
    found = load(folder)
    for split in (found.train, found.validation):
        for name, grey in zip(split.names, greys(split), strict=True):
            expected = f"dog/some/{grey // 2}.jpg" if grey % 2 else f"cat/{grey // 2}.png"
            assert name == expected


def test_a_file_keeps_its_side_when_others_come_or_go(folder):
    before = load(folder)
    for index in range(40, 90):
        write(folder / "cat" / f"{index}.png", 2 * index)
    after = load(folder)
    # The lowest and the highest hash of a class may have changed.
    assert len(set(before.train.names) - set(after.train.names)) <= 1
    assert len(set(before.validation.names) - set(after.validation.names)) <= 1


@pytest.mark.parametrize("held_out", [0.001, 0.999])
def test_a_class_of_two_images_has_one_on_each_side(tmp_path, held_out):
    for label, name in enumerate(("a", "b", "c", "d", "e")):
        write(tmp_path / "few" / name / "first.png", label)
        write(tmp_path / "few" / name / "second.png", label)
    found = load(tmp_path / "few", held_out=held_out)
    assert found.train.labels.tolist() == found.validation.labels.tolist() == [0, 1, 2, 3, 4]


def test_given_splits_stay(divided):
    found = load(divided)
    assert (greys(found.train), greys(found.validation)) == ([0] * 5 + [1] * 5, [100] * 3 + [101] * 3)
    assert found.train.names[0] == "train/cat/0.png"
    assert found.description == (
        f"image_folder {divided}: 10 images of 6x8x3 in 2 classes for training; 6 held out"
    )


@pytest.mark.parametrize(
    ("split", "name"),
    [
        *(("test", name) for name in ("validation", "val", "valid", "dev", "eval", "testing")),
        ("train", "training"),
    ],
)
def test_the_folder_of_a_split_may_have_another_name(divided, split, name):
    expected = load(divided).fingerprint
    (divided / split).rename(divided / name)
    assert load(divided).fingerprint == expected


def test_a_share_to_hold_out_is_refused_where_the_splits_are_given(divided):
    with pytest.raises(
        DataError,
        match=r"data\.held_out=0\.3 has no effect: .*/divided is already split into train and test",
    ):
        load(divided, held_out=0.3)


def test_splits_of_other_names_are_not_taken_for_classes(divided):
    (divided / "train").rename(divided / "a")
    (divided / "test").rename(divided / "b")
    with pytest.raises(
        DataError, match=r"a, b contain no images, but the same folders: cat, dog; .* train and test"
    ):
        load(divided)
    write(divided / "b" / "1.png", 5)
    assert load(divided).classes == ("a", "b")


def test_classes_may_hold_a_folder_each(tmp_path):
    for name in ("cat", "dog"):
        for index in range(2):
            write(tmp_path / "photos" / name / "images" / f"{index}.png", index)
    assert load(tmp_path / "photos").classes == ("cat", "dog")


@pytest.mark.parametrize("closed", ["photos", "photos/cat", "photos/dog/some"])
def test_a_folder_that_may_not_be_read_is_named(folder, closed):
    path = folder.parent / closed
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("nothing is closed to root")
    try:
        with pytest.raises(DataError, match=rf"^cannot read {path}.*: Permission denied$"):
            load(folder)
    finally:
        path.chmod(0o755)


def test_validation_comes_before_test(divided):
    shutil.copytree(divided / "train", divided / "validation")
    assert len(load(divided).validation.labels) == 10


def test_hidden_and_loose_files_do_not_count(folder):
    before = load(folder).fingerprint
    for name in (".hidden/a.png", "cat/.DS_Store", "dog/.thumbs/1.png", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image")
    assert load(folder).fingerprint == before


def test_images_are_resized_and_the_size_is_part_of_the_set(folder):
    write(folder / "cat" / "large.png", 99, size=(300, 200))
    found = load(folder, image_size=(4, 5))
    assert found.train.images.shape[1:] == (4, 5, 3)
    assert load(folder, image_size=(5, 4)).fingerprint != found.fingerprint


def test_images_of_one_size_may_keep_it(folder):
    assert load(folder, image_size=None).fingerprint == load(folder).fingerprint
    write(folder / "cat" / "large.png", 99, size=(300, 200))
    with pytest.raises(
        DataError,
        match=r"images of several shapes, 6x8x3 and 300x200x3; set data\.image_size=\[height,width\]",
    ):
        load(folder, image_size=None)


def test_grey_images_have_one_channel_unless_one_has_colour(folder):
    for path in folder.rglob("*.*"):
        write(path, 7, mode="L")
    assert load(folder).train.images.shape[1:] == (*SIZE, 1)
    write(folder / "cat" / "colour.png", 7)
    assert load(folder).train.images.shape[1:] == (*SIZE, 3)


def test_prediction_reads_a_file_as_training_did(folder):
    write(folder / "cat" / "0.png", 77, size=(20, 30))
    found = load(folder)
    for split in (found.train, found.validation):
        for name, image in zip(split.names, split.images, strict=True):
            np.testing.assert_array_equal(read_image(folder / name, image_size=SIZE, channels=3), image)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "dog" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"^dog/notes\.txt: not an image .*set data\.invalid=skip$"):
        load(folder)


def test_files_that_are_no_images_are_skipped_on_request(folder, monkeypatch):
    expected = load(folder).fingerprint
    for index in range(5):
        (folder / "dog" / f"{index}.txt").write_text("not an image")
    monkeypatch.setattr(progress, "MAX_SKIPPED_NAMED", 2)
    messages = []
    skipping = load(folder, invalid="skip", report=messages.append)
    assert skipping.fingerprint == expected
    assert messages[1:] == [
        "skipped dog/0.txt: not an image that Pillow can read",
        "skipped dog/1.txt: not an image that Pillow can read",
        "skipped 3 more files",
    ]
    assert messages_of(folder, invalid="skip") == messages[1:]


def empty(folder):
    (folder / "bird" / "inner").mkdir(parents=True)


def without_dogs(folder):
    shutil.rmtree(folder / "dog")


def without_folders(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def one_image(folder):
    write(folder / "bird" / "1.png", 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, r"data\.path=.* does not exist; choose a folder with one folder for each class"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), r"data\.path=.* is not a folder"),
        (
            without_folders,
            r"photos has 0 class folders; .* at least two: .*/photos/CLASS/\*, or .*/photos/train",
        ),
        (without_dogs, r"photos has 1 class folder \(cat\); classification needs at least two"),
        (empty, r"the class folder .*/photos/bird is empty; add images or remove it"),
        (one_image, r"class bird has no image for validation; add images to it"),
    ],
)
def test_a_mistake_is_told_in_one_line(folder, change, message):
    change(folder)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_splits_of_other_classes_are_refused(divided, split, other):
    write(divided / split / "bird" / "1.png", 5)
    with pytest.raises(DataError, match=f"differ: bird is in {split} and not in {other}"):
        load(divided)


def test_an_empty_class_of_a_split_is_named(divided):
    shutil.rmtree(divided / "test" / "dog")
    (divided / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder .*/test/dog is empty"):
        load(divided)


def test_a_class_of_which_nothing_is_left_is_named(divided):
    for path in (divided / "test" / "dog").iterdir():
        path.write_text("no image")
    with pytest.raises(
        DataError,
        match=r"class dog has no image for validation \(3 skipped, first: test/dog/0\.png: not",
    ):
        load(divided, invalid="skip")


def test_a_set_of_which_nothing_is_left_is_refused(divided):
    for path in divided.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(
        DataError, match=r"no image is left for training \(10 skipped, first: train/cat/0\.png"
    ):
        load(divided, invalid="skip")


def test_a_second_load_decodes_nothing(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr(image_folder, "decode_image", lambda *args, **kwargs: pytest.fail("decoded again"))
    second = load(folder)
    for split in ("train", "validation"):
        old, new = getattr(first, split), getattr(second, split)
        np.testing.assert_array_equal(old.images, new.images)
        np.testing.assert_array_equal(old.labels, new.labels)
        assert old.names == new.names
    np.testing.assert_array_equal([first.mean, first.deviation], [second.mean, second.deviation])
    assert (first.fingerprint, first.description) == (second.fingerprint, second.description)


@pytest.mark.parametrize(
    "change", ["edited", "new file", "removed file", "held_out", "invalid", "class name"]
)
def test_a_change_builds_the_cache_again(folder, change):
    before = load(folder).fingerprint
    assert messages_of(folder) == []
    options = {"held_out": {"held_out": 0.6}, "invalid": {"invalid": "skip"}}.get(change, {})
    path = folder / "cat" / "3.png"
    if change == "edited":
        stat = path.stat()
        write(path, 200)
        os.utime(path, ns=(stat.st_mtime_ns + 1_000,) * 2)
    if change == "new file":
        write(folder / "cat" / "new.png", 200)
    if change == "removed file":
        path.unlink()
    if change == "class name":
        (folder / "cat").rename(folder / "kitten")
    messages = []
    after = load(folder, report=messages.append, **options)
    assert messages[0].startswith("reading ")
    assert (after.fingerprint != before) == (change != "invalid")


@pytest.mark.parametrize("name", ["train.images.bin", "validation.labels.bin", "names.json", "meta.json"])
def test_a_damaged_cache_is_built_again(folder, name):
    expected = load(folder).fingerprint
    (entry,) = (folder.parent / "cache").iterdir()
    os.truncate(entry / name, 10)
    found = load(folder)
    assert found.fingerprint == expected == json.loads((entry / "meta.json").read_text())["fingerprint"]
    assert len(found.train.names) == len(found.train.labels)
    assert list(entry.parent.iterdir()) == [entry]


def test_a_crash_while_writing_leaves_nothing_behind(folder, monkeypatch):
    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk_cache, "write_meta", crash)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert list((folder.parent / "cache").iterdir()) == []


def test_a_writer_that_comes_second_finds_the_set_complete(folder, monkeypatch):
    nested = []
    write_meta = disk_cache.write_meta

    def load_meanwhile(*args):
        monkeypatch.setattr(disk_cache, "write_meta", write_meta)
        nested.append(load(folder).fingerprint)
        write_meta(*args)

    monkeypatch.setattr(disk_cache, "write_meta", load_meanwhile)
    assert [load(folder).fingerprint] == nested
    assert len(list((folder.parent / "cache").iterdir())) == 1


def test_progress_of_a_long_set_is_told_with_its_rate(folder, monkeypatch):
    monkeypatch.setattr(progress, "REPORT_EVERY_SECONDS", 0)
    messages = messages_of(folder)
    assert messages[0] == f"reading 70 images of image_folder {folder}"
    assert messages[-1].startswith("read 70 of 70 images, ")
    assert messages[-1].endswith(" per second, 0:00 left")


def test_a_large_split_stays_on_disk_and_is_the_same(folder, monkeypatch):
    in_memory = load(folder)
    monkeypatch.setattr(images, "MEMORY_LIMIT_BYTES", in_memory.validation.images.nbytes)
    on_disk = load(folder)
    assert not isinstance(in_memory.train.images, np.memmap)
    assert isinstance(on_disk.train.images, np.memmap)
    assert not isinstance(on_disk.validation.images, np.memmap)
    np.testing.assert_array_equal(on_disk.train.images, in_memory.train.images)
    assert on_disk.fingerprint == in_memory.fingerprint
