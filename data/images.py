"""Image classification datasets: a training and a held-out split, and statistics for normalization.

A cache entry has the raw uint8 pixels of each split, and in `meta.json` their shape, labels and names.
"""

import hashlib
import itertools
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data import sources
from data.config import DigitsConfig, ImageFolderConfig, ImagesConfig, TfdsImagesConfig
from data.image_files import fit_images, image_folder_source
from data.sources import SPLITS, MappedFile, Progress, Report, Source, Split
from system.errors import DataError
from system.text import format_count, format_share, print_line


@dataclass(frozen=True)
class ImageSplit:
    """Images (count, height, width, channels) uint8, labels (count,) int32, and names if they have any."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str] | None = None


@dataclass(frozen=True)
class ImageSet:
    """Image classification dataset; `images` of the cache are memory-mapped."""

    train: ImageSplit
    validation: ImageSplit
    classes: tuple[str, ...]  # labels are their indices
    mean: np.ndarray  # (channels,) float32 of the training images, with pixel values in [0, 1]
    deviation: np.ndarray  # (channels,) float32 standard deviation of the same
    fingerprint: str  # SHA-256 over images, labels and class names
    description: str  # one line about the source and its size


def load_images(config: ImagesConfig, *, report: Report = print_line) -> ImageSet:
    """Loads the images of `config` from the cache, which is built first if any of them has changed.

    `report` receives progress and skipped files. DataError if the images or the cache cannot be used.
    """
    if isinstance(config, DigitsConfig):
        return load_digits(config)
    if isinstance(config, ImageFolderConfig):
        source = image_folder_source(config, report=report)
    else:
        from data.tfds import tfds_source  # slow to import

        source = tfds_source(config, report=report)
    options = {"image_size": config.image_size, "classes": source.classes, "held_out": source.held_out}
    folder = sources.cache_folder(config.cache_dir, config.source, source.identity | options)
    meta = sources.load_or_build(folder, source, partial(write_images, source, config), report=report)
    return make_set(config, source.name, source.classes, read_splits(folder, meta), meta)


def load_digits(config: DigitsConfig) -> ImageSet:
    """The 1,797 handwritten digits of scikit-learn; one fifth of each class is held out."""
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
    if config.image_size is not None:
        images = fit_images(images, config.image_size)
    train_images, held_out_images, *labels = model_selection.train_test_split(
        images, digits.target.astype(np.int32), test_size=0.2, stratify=digits.target, random_state=0
    )
    splits = dict(zip(SPLITS, map(ImageSplit, (train_images, held_out_images), labels), strict=True))
    classes = tuple("0123456789")
    return make_set(config, config.source, classes, splits, facts_of(classes, splits))


def make_set(
    config: ImagesConfig, name: str, classes: tuple[str, ...], splits: dict[Split, ImageSplit], facts: dict
) -> ImageSet:
    num_train, num_held_out = (len(splits[split].labels) for split in SPLITS)
    shape = "x".join(map(str, splits["train"].images.shape[1:]))
    return ImageSet(
        **splits,
        classes=classes,
        mean=np.array(facts["mean"], np.float32),
        deviation=np.array(facts["deviation"], np.float32),
        fingerprint=facts["fingerprint"],
        description=(
            f"{name}: {num_train:,} images of {shape} in {len(classes)} classes for training; "
            f"{format_share(num_held_out, num_train + num_held_out)} held out"
            f"{'' if config.image_size is None else '; cropped to the center and resized to that size'}"
        ),
    )


def write_images(
    source: Source, config: TfdsImagesConfig | ImageFolderConfig, folder: Path, progress: Progress
) -> dict:
    """Writes the pixels of both splits into `folder`; returns the facts for `meta.json`."""
    labels, names = {split: [] for split in SPLITS}, {split: [] for split in SPLITS}
    shape, originals, duplicates = None, {}, []
    for split in SPLITS if source.held_out is None else SPLITS[:1]:
        with open(folder / f"{split}.bin", "wb") as file:
            for name, image, label, *content in source.items(split):
                progress.advance()
                if isinstance(image, DataError):
                    progress.skip(name, image)
                    continue
                if label < 0:
                    raise DataError(f"{name} has no label; choose a data.{split}_split with labels")
                if config.image_size is not None:
                    image = fit_images(image[None], config.image_size)[0]
                shape = shape or image.shape
                if image.shape != shape:
                    both = f"{shape} and {image.shape}"
                    raise DataError(f"{source.name} has images of {both}; set data.image_size=[height,width]")
                # Files are compared, not pixels: the splits must not depend on the image size.
                original = originals.setdefault(*content, name) if content else name
                if original != name:
                    duplicates.append(f"{name}: equals {original}")
                    continue
                file.write(image.tobytes())
                labels[split].append(int(label))
                names[split].append(name)
    if duplicates:
        progress.skipped.insert(0, f"{duplicates[0]}, first of {format_count(len(duplicates), 'duplicate')}")
    meta = {"shape": shape, "labels": labels, "names": names}
    if source.held_out is not None and names["train"]:
        hold_out(folder, meta, share=source.held_out)
    for split in SPLITS if isinstance(config, ImageFolderConfig) else ():  # published splits may lack a class
        found = set(labels[split])
        if missing := [name for label, name in enumerate(source.classes) if label not in found]:
            raise DataError(
                f"{source.name}: the {split} split has no usable image of {', '.join(missing)}"
                f"{progress.describe_skipped()}; add images or remove the class"
            )
    return meta | facts_of(source.classes, read_splits(folder, meta))


def hold_out(folder: Path, meta: dict, *, share: float) -> None:
    """Moves `share` of the training images of each class, at least one and not all, to the validation split.

    Those whose names have the lowest hashes are held out, so that most files keep their split when others are
    added or removed.
    """
    labels, names = (np.array(meta[key]["train"]) for key in ("labels", "names"))
    is_held_out = np.zeros(len(names), bool)
    for label in np.unique(labels):
        indices = np.flatnonzero(labels == label)
        ranked = sorted(indices, key=lambda index: sources.hash_fraction(names[index]))
        # Rounds the running total, so that the rounding errors of many small classes do not add up.
        count = round(share * np.count_nonzero(labels <= label)) - is_held_out.sum()
        is_held_out[ranked[: min(max(count, 1), len(ranked) - 1)]] = True
    images = np.memmap(folder / "train.bin", np.uint8, mode="r").reshape(len(names), -1)  # (count, bytes)
    (folder / "train.bin").unlink()  # `images` still reads the old file
    for split, is_inside in zip(SPLITS, (~is_held_out, is_held_out), strict=True):
        with open(folder / f"{split}.bin", "wb") as file:
            for image in itertools.compress(images, is_inside):
                file.write(image)
        meta["labels"][split], meta["names"][split] = labels[is_inside].tolist(), names[is_inside].tolist()


def read_splits(folder: Path, meta: dict) -> dict[Split, ImageSplit]:
    splits = {}
    for split in SPLITS:
        images = MappedFile(folder / f"{split}.bin", np.uint8, mode="r")
        images = images.reshape(-1, *meta["shape"])  # (count, height, width, channels)
        splits[split] = ImageSplit(images, np.array(meta["labels"][split], np.int32), meta["names"][split])
    return splits


def facts_of(classes: tuple[str, ...], splits: dict[Split, ImageSplit]) -> dict:
    """Statistics and fingerprint as JSON values."""
    mean, deviation = channel_statistics(splits["train"].images)
    shapes = [splits[split].images.shape for split in SPLITS]
    digest = hashlib.sha256(json.dumps([classes, shapes]).encode())
    for split in SPLITS:
        digest.update(np.ascontiguousarray(splits[split].images))
        digest.update(splits[split].labels.astype("<i4"))
    return {"mean": mean.tolist(), "deviation": deviation.tolist(), "fingerprint": digest.hexdigest()}


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(channels,) float32 mean and standard deviation, or 1 if it is 0, of pixel values in [0, 1]."""
    pixels = images.reshape(-1, images.shape[-1])  # (count * height * width, channels)
    # Sums of integers are exact. einsum converts piece by piece, so that the images may exceed the memory.
    total = np.einsum("nc->c", pixels, dtype=np.int64)  # (channels,)
    squares = np.einsum("nc,nc->c", pixels, pixels, dtype=np.int64)  # (channels,)
    mean = total / len(pixels)
    deviation = np.sqrt(np.maximum(squares / len(pixels) - mean**2, 0)) / 255
    return (mean / 255).astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)
