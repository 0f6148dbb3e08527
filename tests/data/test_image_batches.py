"""Batches of images, and the random transforms of the training images."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from data.batches import batch_items
from data.config import AugmentConfig
from data.image_batches import affine_transforms, image_training_dataset, normalize, random_transforms
from data.images import ImageSplit

RANDOM = np.random.default_rng(0)
COUNT = 23
IMAGES = RANDOM.integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
# The label of each image is its index, so that a batch shows which images it has.
SPLIT = ImageSplit(IMAGES, np.arange(COUNT, dtype=np.int32))
MEAN = np.array([0.2, 0.4, 0.5], np.float32)
DEVIATION = np.array([0.3, 0.25, 0.5], np.float32)
MOMENTS = {"mean": MEAN, "deviation": DEVIATION}
ALL_OPTIONS = AugmentConfig(rotation=20.0, scale=0.2, shear=10.0, shift=0.2, flip=True)
NO_OPTIONS = AugmentConfig()


def training(split=SPLIT, *, seed=1, augment=ALL_OPTIONS):
    """Twelve batches, two epochs."""
    images = SimpleNamespace(train=split, **MOMENTS)
    options = {"batch_size": 4, "seed": seed, "augment": augment}
    return list(image_training_dataset(images, start_step=0, num_steps=12, **options).as_numpy_iterator())


def warp(images, transforms, *, fill="constant") -> np.ndarray:
    return np.array(keras.ops.image.affine_transform(images, transforms, fill_mode=fill))


def standardized(images: np.ndarray) -> np.ndarray:
    return (images / 255.0 - MEAN) / DEVIATION


def test_training_batches_follow_the_order_of_the_run():
    for index, (images, labels) in enumerate(training(augment=NO_OPTIONS)):
        items, _ = batch_items(index, batch_size=4, num_items=COUNT, seed=1)
        np.testing.assert_array_equal(labels, items)
        # float32 values up to 3, from one product and one sum.
        np.testing.assert_allclose(images, standardized(IMAGES[items]), atol=1e-6)
        np.testing.assert_array_equal(images, normalize(IMAGES[labels], **MOMENTS))  # as in evaluation


def test_transforms_depend_on_seed_image_and_epoch_and_precede_normalization():
    for index, (images, _) in enumerate(training(seed=3)):  # 12 batches of 4 are two epochs
        items, epochs = batch_items(index, batch_size=4, num_items=COUNT, seed=3)
        transforms = random_transforms(ALL_OPTIONS, items, epochs, seed=3, num_items=COUNT, image_size=(6, 5))
        moved = warp(IMAGES[items].astype(np.float32), transforms)
        np.testing.assert_allclose(images, standardized(moved), atol=1e-6)


IMAGE_SIZE = (6, 9)
PIXELS = RANDOM.integers(0, 256, (3, *IMAGE_SIZE, 2)).astype(np.float32)


def transform(
    images=PIXELS, *, rotation=0.0, scale=1.0, shear=0.0, shift=(0.0, 0.0), flip=False, fill="constant"
) -> np.ndarray:
    """The images after one transform."""
    count = len(images)
    transforms = affine_transforms(
        rotation=np.full(count, rotation),
        scale=np.full(count, scale),
        shear=np.full(count, shear),
        shift=np.tile(shift, (count, 1)),
        flip=np.full(count, flip),
        image_size=images.shape[1:3],
    )
    return warp(images, transforms, fill=fill)


def reference(image: np.ndarray, forward: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """The image interpolated pixel by pixel; `forward` maps (row, column) about the center."""
    height, width = image.shape[:2]
    center = np.array([(height - 1) / 2, (width - 1) / 2])
    result = np.zeros_like(image)
    for row, column in np.ndindex(height, width):
        y, x = np.linalg.solve(forward, np.array([row, column]) - center - shift) + center
        for near_y in (np.floor(y), np.floor(y) + 1):
            for near_x in (np.floor(x), np.floor(x) + 1):
                if 0 <= near_y < height and 0 <= near_x < width:
                    weight = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                    result[row, column] += weight * image[int(near_y), int(near_x)]
    return result


def test_identity_and_flip_are_exact():
    for fill in ("constant", "reflect"):
        np.testing.assert_array_equal(transform(fill=fill), PIXELS)
        np.testing.assert_array_equal(transform(flip=True, fill=fill), PIXELS[:, :, ::-1])


def test_reflect_fills_with_the_mirror_image():
    padded = np.pad(PIXELS, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(transform(shift=(2, -3), fill="reflect"), padded[:, 1:7, 6:15])


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": -17.0, "shift": (0.5, -1.25)},
        {"scale": 0.7, "shift": (1.5, 0.0)},
        {"shear": 20.0},
        {"flip": True, "shear": -10.0, "rotation": 25.0, "scale": 0.9, "shift": (0.25, 2.0)},
    ],
)
def test_transforms_equal_the_reference(options):
    chosen = {"rotation": 0.0, "scale": 1.0, "shear": 0.0, "shift": (0.0, 0.0), "flip": False} | options
    angle = np.radians(chosen["rotation"])
    # Matrices of (row, column): rotation moves what is right of the center up, shear moves lower rows right.
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, 0], [np.tan(np.radians(chosen["shear"])), 1]])
    flip = np.diag([1, -1 if chosen["flip"] else 1])
    forward = rotation @ (chosen["scale"] * np.eye(2)) @ shear @ flip
    expected = [reference(image, forward, chosen["shift"]) for image in PIXELS]
    # float32 positions of a pixel are off by 1e-6, times differences of 255 between neighbors.
    np.testing.assert_allclose(transform(**options), expected, atol=2e-3)


def drawn(config, items, epochs=0, *, seed=3, num_items=1_000, image_size=(10, 20)) -> np.ndarray:
    """Random transforms of the items."""
    items = np.array(items)
    epochs = np.broadcast_to(epochs, items.shape)
    return random_transforms(config, items, epochs, seed=seed, num_items=num_items, image_size=image_size)


def test_random_transform_depends_on_seed_image_and_epoch_alone():
    alone = drawn(ALL_OPTIONS, [7], 2)[0]
    np.testing.assert_array_equal(drawn(ALL_OPTIONS, [5, 900, 7, 8], [2, 1, 2, 0])[2], alone)
    np.testing.assert_array_equal(drawn(ALL_OPTIONS, [7], 2, num_items=8)[0], alone)
    assert (drawn(ALL_OPTIONS, [8], 2)[0] != alone).any()
    assert (drawn(ALL_OPTIONS, [7], 3)[0] != alone).any()
    assert (drawn(ALL_OPTIONS, [7], 2, seed=4)[0] != alone).any()


@pytest.mark.parametrize("option", ["rotation", "scale", "shear", "shift", "flip"])
def test_each_option_has_its_range_and_leaves_the_others(option):
    config = AugmentConfig(**{option: {"flip": True, "rotation": 20.0, "shear": 10.0}.get(option, 0.2)})
    a, b, x, c, d, y, *perspective = drawn(config, range(1_000)).T
    assert not np.any(perspective)
    angle = np.degrees(np.arctan2(c, d))
    factor = np.sqrt(np.abs(a * d - b * c))
    lean = np.degrees(np.arctan(-b))
    values, lowest, highest = {
        "rotation": (angle, -20, 20),
        "scale": (1 / factor, 0.8, 1.2),
        "shear": (lean, -10, 10),
        "shift": (-x, -4, 4),
        "flip": (a, -1, 1),
    }[option]
    # 1,000 uniform draws leave more than 2 % at an end in one of e**20 tests.
    slack = 0.02 * (highest - lowest)
    np.testing.assert_allclose((values.min(), values.max()), (lowest, highest), atol=slack)
    assert option != "shift" or (-y.max(), -y.min()) == (-2, 2)
    assert option != "flip" or 0.4 < np.mean(a < 0) < 0.6  # 0.5, standard deviation 0.016
    if option in ("scale", "shift", "flip"):
        np.testing.assert_allclose(angle, 0, atol=1e-4)
    if option != "scale":
        np.testing.assert_allclose(factor, 1, atol=1e-5)


def test_shift_is_in_whole_pixels_if_alone_and_above_one_pixel():
    alone = drawn(AugmentConfig(shift=0.1, flip=True), range(50))
    np.testing.assert_array_equal(alone, np.rint(alone))
    with_rotation = drawn(AugmentConfig(shift=0.1, rotation=1e-6), range(50))
    assert (np.abs(with_rotation[:, 2] - np.rint(with_rotation[:, 2])) > 0.1).any()
    # 0.6 of 10 rows and 1.2 of 20 columns.
    _, _, right, _, _, down, *_ = drawn(AugmentConfig(shift=0.06), range(1_000)).T
    assert -0.6 <= down.min() < -0.5 < 0.5 < down.max() <= 0.6
    assert set(right) == {-1, 0, 1}


def test_fill_of_the_config_is_used_in_training():
    white = ImageSplit(np.full((COUNT, 6, 5, 3), 255, np.uint8), SPLIT.labels)
    for fill, is_uniform in (("zero", False), ("reflect", True)):
        augment = AugmentConfig(shift=0.5, fill=fill)
        images = np.concatenate([images for images, _ in training(white, augment=augment)])
        assert (np.ptp(images[..., 0]) == 0) == is_uniform
