"""Images on disk: decoded, brought to one size and written once, in the cache of `data.cache`.

An entry has, of each split, `SPLIT.images.bin` of raw uint8 pixels and `SPLIT.labels.bin` of little-endian
int32, and `names.json` where images have names.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cache import SPLITS
from data.resize import fit_images
from data.split import Split
from system.errors import DataError

LABEL_DTYPE = np.dtype("<i4")
# A split up to this size is read into memory; a larger one is read from disk as it is used.
MEMORY_LIMIT_BYTES = 2**30
WRITTEN_AT_ONCE = 64
PROGRESS_EVERY_SECONDS = 10
MAX_SKIPPED_NAMED = 20


class Example(NamedTuple):
    """One image, (height, width, channels) uint8, with its class and, where it has one, its name."""

    name: str | None
    image: np.ndarray
    label: int


@dataclass(frozen=True)
class ImageSource:
    """Images of one set, readable again and again.

    Attributes:
        name: how messages call the source.
        identity: JSON values that change whenever an image may have changed.
        classes: their names.
        counts: number of images by split, with those that will be skipped.
        examples: of a split and a function that is told what is skipped: the examples, in a fixed order.
        every_class: whether each class must have an image in each split.
    """

    name: str
    identity: dict
    classes: tuple[str, ...]
    counts: dict[Split, int]
    examples: Callable[[Split, Callable[[str], None]], Iterator[Example]]
    every_class: bool


@dataclass(frozen=True)
class ImageSplit:
    """Images (count, height, width, channels) uint8, labels (count,) int32, and names where there are any."""

    images: np.ndarray
    labels: np.ndarray
    names: list[str] | None = None


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_images(
    source: ImageSource, folder: Path, *, image_size: tuple[int, int] | None, report: Callable[[str], None]
) -> dict:
    """Writes both splits of `source` into `folder`; returns what was written and what was skipped.

    Raises:
        DataError: if the disk is too small, sizes or channels differ, or a class or split has no image.
    """
    writing = _Writing(source, folder, image_size, report)
    for split in SPLITS:
        writing.write(split)
    writing.check_classes()
    if writing.names["train"]:
        (folder / "names.json").write_text(json.dumps(writing.names), "utf-8")
    return {"shape": writing.shape, "num_skipped": writing.num_skipped, "skipped": writing.skipped}


def read_images(folder: Path, split: Split, shape: tuple[int, ...]) -> ImageSplit:
    """One split of a complete entry, in memory or, if that would take too much, memory-mapped.

    Args:
        shape: (height, width, channels).
    """
    images = np.memmap(folder / f"{split}.images.bin", np.uint8, mode="r").reshape(-1, *shape)
    if images.nbytes <= MEMORY_LIMIT_BYTES:
        images = np.array(images)
    labels = np.fromfile(folder / f"{split}.labels.bin", LABEL_DTYPE).astype(np.int32)
    names = folder / "names.json"
    return ImageSplit(images, labels, json.loads(names.read_text("utf-8"))[split] if names.exists() else None)


@dataclass
class _Writing:
    """What the writing of one entry has come to."""

    source: ImageSource
    folder: Path
    image_size: tuple[int, int] | None
    report: Callable[[str], None]
    shape: tuple[int, ...] | None = None
    labels: dict[Split, list[int]] = field(default_factory=dict)
    names: dict[Split, list[str]] = field(default_factory=dict)
    num_skipped: int = 0
    skipped: list[str] = field(default_factory=list)
    _num_done: int = 0
    _started_at: float = field(default_factory=time.monotonic)
    _reported_at: float = field(default_factory=time.monotonic)

    def write(self, split: Split) -> None:
        labels, names = self.labels.setdefault(split, []), self.names.setdefault(split, [])
        with open(self.folder / f"{split}.images.bin", "wb") as file:
            for examples in chunks(self.source.examples(split, self._skip), WRITTEN_AT_ONCE):
                file.write(self._pixels([example.image for example in examples]).tobytes())
                labels += [example.label for example in examples]
                names += [example.name for example in examples if example.name is not None]
                self._progress(len(examples))
        np.array(labels, LABEL_DTYPE).tofile(self.folder / f"{split}.labels.bin")

    def check_classes(self) -> None:
        """Raises DataError if a split or, where every class counts, a class has no image."""
        name, classes = self.source.name, self.source.classes
        skipped = f" ({self.num_skipped:,} skipped, first: {self.skipped[0]})" if self.skipped else ""
        for split, use in (("train", "to train on"), ("validation", "held out")):
            missing = sorted(set(range(len(classes))) - set(self.labels[split]))
            if len(missing) == len(classes):
                raise DataError(f"{name}: there is no image {use}{skipped}; give more images")
            if missing and self.source.every_class:
                raise DataError(
                    f"{name}: class {classes[missing[0]]} has no image {use}{skipped}; give it more images"
                )
        if len(set(self.labels["train"])) == 1:
            only = classes[self.labels["train"][0]]
            raise DataError(
                f"{name}: all training images are of one class, {only}; to tell classes apart it takes two"
            )

    def _pixels(self, images: list[np.ndarray]) -> np.ndarray:
        """The images at the size of the set, which the first of all decides where the config does not."""
        if self.shape is None:
            self.shape = (*(self.image_size or images[0].shape[:2]), images[0].shape[-1])
            self._check_disk()
        if self.image_size is None:
            self._check_shape(images, "sizes", "set data.image_size=[height,width]", slice(0, 2))
        self._check_shape(images, "numbers of channels", "they must have the same number", slice(2, 3))
        return fit_images(images, self.shape[:2])

    def _check_shape(self, images: list[np.ndarray], what: str, advice: str, axes: slice) -> None:
        for image in images:
            if image.shape[axes] != self.shape[axes]:
                one, other = ("x".join(map(str, shape[axes])) for shape in (self.shape, image.shape))
                raise DataError(f"{self.source.name}: images of several {what}, {one} and {other}; {advice}")

    def _check_disk(self) -> None:
        needed = self._num_images() * math.prod(self.shape)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"{self.source.name}: the cache takes {needed / 1e9:,.1f} GB and its disk has "
                f"{free / 1e9:,.1f} GB free; make room, name another disk with data.cache_dir=..., "
                "or lower data.image_size"
            )

    def _num_images(self) -> int:
        return sum(self.source.counts.values())

    def _skip(self, message: str) -> None:
        self.num_skipped += 1
        if len(self.skipped) < MAX_SKIPPED_NAMED:
            self.skipped.append(message)

    def _progress(self, count: int) -> None:
        self._num_done += count
        if time.monotonic() - self._reported_at >= PROGRESS_EVERY_SECONDS:
            self._reported_at = time.monotonic()
            rate = self._num_done / (self._reported_at - self._started_at)
            self.report(f"read {self._num_done:,} of {self._num_images():,} images, {rate:,.0f} a second")
