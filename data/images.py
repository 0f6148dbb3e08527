"""Image sets for classification: one split to train on, one held out, and what normalises them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cache import SPLITS, build_folder, cache_folder, read_meta, write_meta
from data.config import DigitsConfig, ImageFolderConfig, TfdsImagesConfig
from data.digits import load_digits
from data.image_store import LABEL_DTYPE, ImageSource, ImageSplit, read_images, write_images
from data.resize import fit_images

ImagesConfig = DigitsConfig | TfdsImagesConfig | ImageFolderConfig
Report = Callable[[str], None]

SUMMED_AT_ONCE = 2**22


@dataclass(frozen=True)
class ImageSet:
    """Images of one set.

    Attributes:
        train: the images to train on.
        validation: the held-out images, of the same size and channels.
        classes: the name of each class; labels count them from 0.
        mean: (channels,) float32 of the training images, with values in [0, 1].
        deviation: (channels,) float32 standard deviation of the same.
        fingerprint: SHA-256 over images, labels and class names; equal fingerprints mean equal sets.
        description: one line about the source and its size.
    """

    train: ImageSplit
    validation: ImageSplit
    classes: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    fingerprint: str
    description: str


def load_images(config: ImagesConfig, *, report: Report = print) -> ImageSet:
    """The images of `config`, from the cache on disk if none of them has changed since.

    Args:
        config: one of the image classes of `data.config`.
        report: receives one-line messages: progress, and the files that were skipped.

    Raises:
        DataError: if the images cannot be found or read, do not make a set, or cannot be cached.
    """
    match config:
        case DigitsConfig():
            return _digits(config)
        case ImageFolderConfig():
            from data.image_folder import image_folder_source

            source = image_folder_source(config)
        case TfdsImagesConfig():
            from data.tfds_images import tfds_images_source

            source = tfds_images_source(config, report=report)
        case _:
            raise TypeError(f"config must be an image class of data.config, got {type(config).__name__}")
    return _cached(source, config, report=report)


def _digits(config: DigitsConfig) -> ImageSet:
    images, labels, indices = load_digits()
    if config.image_size is not None:
        images = fit_images(images, config.image_size)
    splits = {split: ImageSplit(images[index], labels[index]) for split, index in indices.items()}
    classes = tuple(str(digit) for digit in range(10))
    return _image_set(config.source, splits, classes, _facts(splits, classes))


def _cached(source: ImageSource, config: ImagesConfig, *, report: Report) -> ImageSet:
    identity = source.identity | {"image_size": config.image_size, "classes": source.classes}
    folder = cache_folder(config.cache_dir, config.source, identity)
    meta = read_meta(folder)
    if meta is None:
        report(f"reading {sum(source.counts.values()):,} images of {source.name}")
        build_folder(folder, lambda path: _write(source, path, image_size=config.image_size, report=report))
        meta = read_meta(folder)
    for message in meta["skipped"]:
        report(f"skipped {message}")
    if meta["num_skipped"] > len(meta["skipped"]):
        report(f"skipped {meta['num_skipped'] - len(meta['skipped']):,} more files")
    return _image_set(source.name, _read(folder, meta), source.classes, meta)


def _write(source: ImageSource, folder: Path, *, image_size: tuple[int, int] | None, report: Report) -> None:
    written = write_images(source, folder, image_size=image_size, report=report)
    write_meta(folder, written | _facts(_read(folder, written), source.classes))


def _read(folder: Path, meta: dict) -> dict[str, ImageSplit]:
    return {split: read_images(folder, split, meta["shape"]) for split in SPLITS}


def _facts(splits: dict[str, ImageSplit], classes: tuple[str, ...]) -> dict:
    """What is computed from all images, as JSON values."""
    mean, deviation = channel_statistics(splits["train"].images)
    return {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "fingerprint": _fingerprint(splits, classes),
    }


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by channel, (channels,) float32, of pixels as numbers in [0, 1].

    A channel without variation has the deviation 1, by which it can be divided.

    Args:
        images: (count, height, width, channels) uint8, in memory or on disk.
    """
    channels = images.shape[-1]
    pixels = images.reshape(-1, channels)
    # Sums of integers are exact, in whatever pieces they are taken.
    total = squares = np.zeros(channels, np.int64)
    for start in range(0, len(pixels), SUMMED_AT_ONCE):
        piece = pixels[start : start + SUMMED_AT_ONCE].astype(np.int64)
        total = total + piece.sum(axis=0)
        squares = squares + (piece**2).sum(axis=0)
    mean = total / len(pixels)
    deviation = np.sqrt(np.maximum(squares / len(pixels) - mean**2, 0)) / 255
    return (mean / 255).astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)


def _fingerprint(splits: dict[str, ImageSplit], classes: tuple[str, ...]) -> str:
    shapes = [splits[split].images.shape for split in SPLITS]
    digest = hashlib.sha256(json.dumps([classes, shapes]).encode())
    for split in SPLITS:
        digest.update(np.ascontiguousarray(splits[split].images))
        digest.update(splits[split].labels.astype(LABEL_DTYPE))
    return digest.hexdigest()


def _image_set(name: str, splits: dict[str, ImageSplit], classes: tuple[str, ...], facts: dict) -> ImageSet:
    train, validation = splits["train"], splits["validation"]
    shape = "x".join(map(str, train.images.shape[1:]))
    return ImageSet(
        train=train,
        validation=validation,
        classes=classes,
        mean=np.array(facts["mean"], np.float32),
        deviation=np.array(facts["deviation"], np.float32),
        fingerprint=facts["fingerprint"],
        description=(
            f"{name}: {len(train.labels):,} images of {shape} in {len(classes)} classes for training; "
            f"{len(validation.labels):,} held out"
        ),
    )
