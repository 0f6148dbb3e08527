"""The digits, and the statistics and fingerprint of an image set."""

import hashlib
import json

import numpy as np
import pytest
from sklearn import datasets

from data.config import DigitsConfig
from data.images import channel_statistics, load_images


@pytest.fixture(scope="module")
def found():
    return load_images(DigitsConfig())


def test_digits_are_those_of_scikit_learn(found):
    expected = datasets.load_digits()
    stored = {image.tobytes(): target for image, target in zip(expected.images, expected.target, strict=True)}
    for split in (found.train, found.validation):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        for image, label in zip(split.images, split.labels, strict=True):
            sixteenths = np.rint(image[..., 0] / (255 / 16))
            assert stored[sixteenths.tobytes()] == label
            np.testing.assert_allclose(image[..., 0], sixteenths * 255 / 16, atol=0.5)
    assert found.classes == tuple("0123456789")
    sizes = "1,437 images of 8x8x1 in 10 classes for training; 360 of 1,797 (20.0 %) held out"
    assert found.description == f"digits: {sizes}"


def test_one_fifth_of_each_digit_is_held_out(found):
    train, validation = found.train.labels, found.validation.labels
    shares = np.bincount(validation) / np.bincount([*train, *validation])
    np.testing.assert_allclose(shares, 0.2, atol=0.01)  # one image of about 180
    # Published results are measured on these images.
    pixels = np.rint(datasets.load_digits().images[[1496, 188, 705, 820, 413]] * (255 / 16))
    np.testing.assert_array_equal(found.validation.images[:5, ..., 0], pixels)


def test_digits_can_be_resized(found):
    resized = load_images(DigitsConfig(image_size=(12, 16)))
    assert resized.train.images.shape == (1_437, 12, 16, 1)
    assert resized.fingerprint != found.fingerprint


def test_statistics_are_those_of_each_channel_of_the_training_images(found):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8) // np.array([1, 2, 3, 4])
    for images, statistics in (
        (pixels.astype(np.uint8), channel_statistics(pixels.astype(np.uint8))),
        (found.train.images, (found.mean, found.deviation)),
    ):
        values = images.astype(np.float64) / 255
        np.testing.assert_allclose(statistics[0], values.mean(axis=(0, 1, 2)), rtol=1e-6)  # float32
        np.testing.assert_allclose(statistics[1], values.std(axis=(0, 1, 2)), rtol=1e-6)
        assert statistics[0].dtype == statistics[1].dtype == np.float32
    mean, deviation = channel_statistics(np.full((2, 3, 5, 1), 51, np.uint8))  # a constant channel
    np.testing.assert_allclose((mean[0], deviation[0]), (0.2, 1))


def test_fingerprint_covers_images_labels_and_class_names(found):
    digest = hashlib.sha256(json.dumps([found.classes, [[1_437, 8, 8, 1], [360, 8, 8, 1]]]).encode())
    for split in (found.train, found.validation):
        digest.update(split.images.tobytes() + split.labels.astype("<i4").tobytes())
    assert found.fingerprint == digest.hexdigest()
