"""Image classification datasets: a training and a held-out split, and statistics for normalization.

A cache entry has raw uint8 pixels and little-endian int32 labels of each split, and the names of the images.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from data.config import DigitsConfig, ImageFolderConfig, TfdsImagesConfig
from data.disk_cache import Progress, cache_folder, load_or_build, report_skipped
from data.image_files import fit_images, image_folder_source
from data.sources import SPLITS, Example, ImageSource, Split
from data.tfds import tfds_images_source
from system.errors import DataError
from system.text import format_count

ImagesConfig = DigitsConfig | TfdsImagesConfig | ImageFolderConfig
Report = Callable[[str], None]

LABEL_DTYPE = np.dtype("<i4")
# A split up to this size is read into memory; a larger one is memory-mapped.
MEMORY_LIMIT_BYTES = 2**30
WRITTEN_AT_ONCE = 64
SUMMED_AT_ONCE = 2**22
# Fixed split of the digits.
DIGITS_SPLIT_SEED, DIGITS_HELD_OUT = 0, 0.2


@dataclass(frozen=True)
class ImageSplit:
    """Images (count, height, width, channels) uint8, labels (count,) int32, and the names of the images."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str] | None = None


@dataclass(frozen=True)
class ImageSet:
    """Image classification dataset.

    Attributes:
        classes: names of the classes; labels are their indices.
        mean: (channels,) float32 of the training images, with pixel values in [0, 1].
        deviation: (channels,) float32 standard deviation of the same.
        fingerprint: SHA-256 over images, labels and class names.
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
    """Loads the images of `config` from the cache, which is built first if any of them has changed.

    `report` receives one-line messages: progress and skipped files.

    Raises:
        DataError: if the images cannot be found or read, are not a valid set, or cannot be cached.
    """
    match config:
        case DigitsConfig():
            return _load_digits(config)
        case ImageFolderConfig():
            source = image_folder_source(config)
        case TfdsImagesConfig():
            source = tfds_images_source(config, report=report)
        case _:
            raise TypeError(f"config must be an image class of data.config, got {type(config).__name__}")
    identity = source.identity | {"image_size": config.image_size, "classes": source.classes}
    folder = cache_folder(config.cache_dir, config.source, identity)
    meta = load_or_build(folder, lambda path: _write(source, path, config.image_size, report))
    report_skipped(meta, source.unit, report)
    return _image_set(source.name, _read_splits(folder, meta["shape"]), source.classes, meta)


def _load_digits(config: DigitsConfig) -> ImageSet:
    """The 1,797 handwritten digits of scikit-learn; one fifth of each class is held out."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
    labels = digits.target.astype(np.int32)
    indices = model_selection.train_test_split(
        np.arange(len(labels)), test_size=DIGITS_HELD_OUT, stratify=labels, random_state=DIGITS_SPLIT_SEED
    )
    if config.image_size is not None:
        images = fit_images(images, config.image_size)
    splits = {
        split: ImageSplit(images[index], labels[index]) for split, index in zip(SPLITS, indices, strict=True)
    }
    classes = tuple(str(digit) for digit in range(10))
    return _image_set(config.source, splits, classes, _facts(splits, classes))


def _image_set(name: str, splits: dict[Split, ImageSplit], classes: tuple[str, ...], facts: dict) -> ImageSet:
    train, validation = (splits[split] for split in SPLITS)
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


def _write(source: ImageSource, folder: Path, image_size: tuple[int, int] | None, report: Report) -> dict:
    """Writes both splits into `folder`; returns the facts for `meta.json`."""
    report(f"reading {format_count(source.num_items, source.unit)} of {source.name}")
    progress = Progress("read", source, report)
    shape, names = None, {}
    for split in SPLITS:
        labels, names[split] = [], []
        examples = source.examples(split, progress.skip)
        with open(folder / f"{split}.images.bin", "wb") as file:
            while some := list(islice(examples, WRITTEN_AT_ONCE)):
                if shape is None:
                    height_width = image_size or some[0].image.shape[:2]
                    shape = (*height_width, some[0].image.shape[-1])
                _check_shapes(some, shape if image_size is None else shape[-1:], source.name)
                file.write(fit_images([example.image for example in some], shape[:2]).tobytes())
                labels += [example.label for example in some]
                names[split] += [example.name for example in some if example.name is not None]
                progress.advance(len(some))
        np.array(labels, LABEL_DTYPE).tofile(folder / f"{split}.labels.bin")
        _check_classes(source, split, labels, progress)
    if names["train"]:
        (folder / "names.json").write_text(json.dumps(names), "utf-8")
    facts = _facts(_read_splits(folder, shape), source.classes)
    return {"shape": shape} | progress.facts() | facts


def _check_shapes(examples: list[Example], shape: tuple[int, ...], name: str) -> None:
    """Raises DataError unless the last axes of all images have `shape`."""
    for example in examples:
        other = example.image.shape[-len(shape) :]
        if other != shape:
            one, other = ("x".join(map(str, each)) for each in (shape, other))
            raise DataError(
                f"{name}: images of several shapes, {one} and {other}; set data.image_size=[height,width], "
                "and use images of one number of channels"
            )


def _check_classes(source: ImageSource, split: Split, labels: list[int], progress: Progress) -> None:
    """Raises DataError if the split, or a class if `every_class`, has no image, or training has one class."""
    use = "for training" if split == "train" else "for validation"
    skipped = f" ({progress.num_skipped:,} skipped, first: {progress.skipped[0]})" if progress.skipped else ""
    missing = sorted(set(range(len(source.classes))) - set(labels))
    if not labels:
        raise DataError(f"{source.name}: no image is left {use}{skipped}; add images")
    if missing and source.every_class:
        raise DataError(
            f"{source.name}: class {source.classes[missing[0]]} has no image {use}{skipped}; add images to it"
        )
    if split == "train" and len(set(labels)) == 1:
        raise DataError(
            f"{source.name}: all training images are of one class, {source.classes[labels[0]]}; "
            "classification needs at least two classes"
        )


def _read_splits(folder: Path, shape: tuple[int, ...]) -> dict[Split, ImageSplit]:
    """Splits of a complete entry, in memory or memory-mapped; `shape` is (height, width, channels)."""
    names_file = folder / "names.json"
    names = json.loads(names_file.read_text("utf-8")) if names_file.exists() else {}
    splits = {}
    for split in SPLITS:
        images = np.memmap(folder / f"{split}.images.bin", np.uint8, mode="r")
        images = images.reshape(-1, *shape)  # (count, height, width, channels)
        if images.nbytes <= MEMORY_LIMIT_BYTES:
            images = np.array(images)
        labels = np.fromfile(folder / f"{split}.labels.bin", LABEL_DTYPE).astype(np.int32)
        splits[split] = ImageSplit(images, labels, names.get(split))
    return splits


def _facts(splits: dict[Split, ImageSplit], classes: tuple[str, ...]) -> dict:
    """Statistics and fingerprint as JSON values."""
    mean, deviation = channel_statistics(splits["train"].images)
    shapes = [splits[split].images.shape for split in SPLITS]
    digest = hashlib.sha256(json.dumps([classes, shapes]).encode())
    for split in SPLITS:
        digest.update(np.ascontiguousarray(splits[split].images))
        digest.update(splits[split].labels.astype(LABEL_DTYPE))
    return {"mean": mean.tolist(), "deviation": deviation.tolist(), "fingerprint": digest.hexdigest()}


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, (channels,) float32, of pixel values in [0, 1].

    Images are (count, height, width, channels) uint8. The deviation of a constant channel is 1, since
    normalization divides by it.
    """
    channels = images.shape[-1]
    pixels = images.reshape(-1, channels)  # (count * height * width, channels)
    # Integer sums are exact, whatever the size of the pieces.
    total = squares = np.zeros(channels, np.int64)
    for start in range(0, len(pixels), SUMMED_AT_ONCE):
        piece = pixels[start : start + SUMMED_AT_ONCE].astype(np.int64)
        total = total + piece.sum(axis=0)
        squares = squares + (piece**2).sum(axis=0)
    mean = total / len(pixels)
    deviation = np.sqrt(np.maximum(squares / len(pixels) - mean**2, 0)) / 255
    return (mean / 255).astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)
