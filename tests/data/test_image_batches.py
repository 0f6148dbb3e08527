"""Batches of images to train and to evaluate on."""

import numpy as np
import pytest

import data.images
from data.batches import batch_items
from data.config import PHOTOS_AUGMENT, AugmentConfig, ImageFolderConfig
from data.image_batches import (
    image_evaluation_batches,
    image_training_dataset,
    normalize,
    random_transforms,
    warp,
)
from data.images import ImageSplit, load_images

COUNT = 23
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
# Each label is its image's own index, so that a batch says what is in it.
SPLIT = ImageSplit(IMAGES, np.arange(COUNT, dtype=np.int32))
MEAN = np.array([0.2, 0.4, 0.5], np.float32)
DEVIATION = np.array([0.3, 0.25, 0.5], np.float32)
SCALES = {"mean": MEAN, "deviation": DEVIATION}
MOVES = AugmentConfig(rotation=20.0, scale=0.2, shear=10.0, shift=0.2, flip=True)


def training(split=SPLIT, *, steps=12, start_step=0, batch_size=4, seed=1, augment=MOVES, **scales):
    dataset = image_training_dataset(
        split,
        start_step=start_step,
        num_steps=steps,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        **(SCALES | scales),
    )
    return list(dataset.as_numpy_iterator())


def standardized(images: np.ndarray) -> np.ndarray:
    return (images / 255.0 - MEAN) / DEVIATION


def test_batches_follow_the_order_of_the_run():
    for index, (images, labels) in enumerate(training(augment=AugmentConfig())):
        items, _ = batch_items(index, batch_size=4, num_items=COUNT, seed=1)
        np.testing.assert_array_equal(labels, items)
        # float32 numbers up to 3, from one product and one sum.
        np.testing.assert_allclose(images, standardized(IMAGES[items]), atol=1e-6)


def test_training_and_evaluation_see_the_same_numbers():
    for images, labels in training(augment=AugmentConfig()):
        np.testing.assert_array_equal(images, normalize(IMAGES[labels], **SCALES))


def test_moves_are_drawn_for_image_and_epoch_before_normalising():
    for index, (images, _) in enumerate(training()):
        items, epochs = batch_items(index, batch_size=4, num_items=COUNT, seed=1)
        transforms = random_transforms(MOVES, items, epochs, seed=1, num_items=COUNT, image_size=(6, 5))
        moved = warp(IMAGES[items].astype(np.float32), transforms, fill="zero").numpy()
        np.testing.assert_allclose(images, standardized(moved), atol=1e-6)


def test_a_resumed_run_sees_the_same_batches():
    whole, rest = training(steps=15), training(steps=15, start_step=6)
    assert (len(whole), len(rest)) == (15, 9)
    for straight, resumed in zip(whole[6:], rest, strict=True):
        np.testing.assert_array_equal(straight[0], resumed[0])
        np.testing.assert_array_equal(straight[1], resumed[1])


def seen_in_order(batch_size: int, count: int, **options) -> tuple[np.ndarray, np.ndarray]:
    batches = training(steps=count // batch_size, batch_size=batch_size, **options)
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def test_an_image_moves_alike_whatever_the_batch_size():
    expected = seen_in_order(1, 60)
    for batch_size in (4, 30):  # 30: more than an epoch
        np.testing.assert_array_equal(seen_in_order(batch_size, 60)[1], expected[1])
        np.testing.assert_array_equal(seen_in_order(batch_size, 60)[0], expected[0])


def test_an_epoch_shows_each_image_once_and_the_next_one_moves_it_anew():
    images, labels = seen_in_order(1, 2 * COUNT)
    first, second = labels[:COUNT].argsort(), COUNT + labels[COUNT:].argsort()
    np.testing.assert_array_equal(labels[first], range(COUNT))
    np.testing.assert_array_equal(labels[second], range(COUNT))
    assert all((images[one] != images[other]).any() for one, other in zip(first, second, strict=True))


def test_another_seed_is_another_order_and_other_moves():
    images, labels = seen_in_order(1, COUNT)
    other_images, other_labels = seen_in_order(1, COUNT, seed=2)
    assert (labels != other_labels).any()
    assert (images[labels.argsort()] != other_images[other_labels.argsort()]).any(axis=(1, 2, 3)).all()


def test_the_dataset_has_static_shapes():
    dataset = image_training_dataset(
        SPLIT, start_step=0, num_steps=2, batch_size=4, seed=0, augment=MOVES, **SCALES
    )
    images, labels = dataset.element_spec
    assert (images.shape, images.dtype.name) == ((4, 6, 5, 3), "float32")
    assert (labels.shape, labels.dtype.name) == ((4,), "int32")


def test_the_fill_of_the_config_comes_in():
    bright = ImageSplit(np.full((COUNT, 6, 5, 3), 255, np.uint8), SPLIT.labels)
    for fill, is_even in (("zero", False), ("reflect", True)):
        augment = AugmentConfig(shift=0.5, fill=fill)
        images = np.concatenate([images for images, _ in training(bright, augment=augment)])
        assert (np.ptp(images[..., 0]) == 0) == is_even


@pytest.mark.parametrize(("count", "batch_size"), [(23, 4), (24, 4), (3, 8), (8, 8)])
def test_evaluation_sees_every_image_once(count, batch_size):
    split = ImageSplit(IMAGES[np.arange(count) % COUNT], np.arange(count, dtype=np.int32))
    seen = []
    batches = image_evaluation_batches(split, batch_size=batch_size, **SCALES)
    for images, labels in batches:
        assert (images.shape, images.dtype) == ((batch_size, 6, 5, 3), np.float32)
        assert (labels.shape, labels.dtype) == ((batch_size,), np.int32)
        counted = labels >= 0
        np.testing.assert_allclose(images[counted], standardized(split.images[labels[counted]]), atol=1e-6)
        np.testing.assert_allclose(images[~counted], standardized(np.zeros_like(images[~counted])), atol=1e-6)
        assert (labels[~counted] == -1).all()
        seen.extend(labels[counted])
    assert seen == list(range(count))
    assert len(batches) == len(list(batches)) == -(-count // batch_size)
    with pytest.raises(IndexError):
        batches[len(batches)]


@pytest.mark.parametrize("max_batches", [1, 3, 5, 6, 100])
def test_a_part_of_the_evaluation_is_spread_over_the_images(max_batches):
    batches = image_evaluation_batches(SPLIT, batch_size=4, **SCALES, max_batches=max_batches)
    assert len(batches) == min(max_batches, 6)
    labels = np.concatenate([labels for _, labels in batches])
    counted = labels[labels >= 0]
    assert len(counted) == min(4 * max_batches, COUNT)
    gaps = np.diff([*counted, COUNT])
    assert counted[0] == 0
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_batches_from_disk_are_those_from_memory(tmp_path, monkeypatch):
    from PIL import Image

    for index, image in enumerate(IMAGES):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    config = ImageFolderConfig(str(tmp_path / "photos"), image_size=(6, 5), cache_dir=str(tmp_path / "cache"))
    in_memory = load_images(config, report=lambda message: None)
    monkeypatch.setattr(data.images, "MEMORY_LIMIT_BYTES", 0)
    on_disk = load_images(config, report=lambda message: None)
    assert isinstance(on_disk.train.images, np.memmap)
    for split in ("train", "validation"):
        left, right = getattr(in_memory, split), getattr(on_disk, split)
        streams = zip(
            training(left, augment=PHOTOS_AUGMENT), training(right, augment=PHOTOS_AUGMENT), strict=True
        )
        evaluations = zip(
            image_evaluation_batches(left, batch_size=4, **SCALES),
            image_evaluation_batches(right, batch_size=4, **SCALES),
            strict=True,
        )
        for one, other in [*streams, *evaluations]:
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])
