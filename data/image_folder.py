"""Image folders as a source: one folder for each class."""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.config import ImageFolderConfig
from data.image_files import InvalidImage, decode_image, fit_images, has_colour
from data.sources import Example, ImageSource, read_file
from data.split import Split, hash_fraction
from system.errors import DataError, reason
from system.files import walk_files
from system.text import format_count, printable

# Names of the folders of two splits; the first one that exists is used.
TRAIN_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("validation", "val", "valid", "dev", "eval", "test", "testing")
FILES_AT_ONCE = 64


class ImageFile(NamedTuple):
    """One file: `name` is its path relative to the folder of the set."""

    name: str
    path: Path
    label: int


Splits = dict[Split, list[ImageFile]]


def image_folder_source(config: ImageFolderConfig) -> ImageSource:
    """Images below `config.path`, in the order of their classes and names.

    A class is a folder, and its images are all files below it, except hidden files and folders. If the path
    has one of `TRAIN_FOLDERS` and one of `HELD_OUT_FOLDERS`, these are the splits. Otherwise files whose name
    hashes below `config.held_out` are held out, so that a file keeps its split when others come or go; each
    class has at least one image in either split.

    Raises:
        DataError: if a folder cannot be read, there are fewer than two class folders, one is empty, the
            splits have different classes, or `held_out` is set although the splits exist.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.path={config.path} {problem}; choose a folder with one folder for each class")
    try:
        classes, splits = _find_files(root, config)
        stats = {split: [(file.name, file.path.stat()) for file in files] for split, files in splits.items()}
    except OSError as error:
        raise DataError(f"cannot read {printable(str(error.filename))}: {reason(error)}") from error

    def examples(split: Split, skip: Callable[[str], None]) -> Iterator[Example]:
        with warnings.catch_warnings(action="ignore"):
            is_grey = not any(has_colour(file.path) for files in splits.values() for file in files)
        return _read(splits[split], config.image_size, channels=1 if is_grey else 3, skip=skip)

    return ImageSource(
        name=printable(f"{config.source} {config.path}"),
        identity={
            "root": printable(str(root.absolute())),
            "files": {
                split: [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
                for split, files in stats.items()
            },
            "invalid": config.invalid,
        },
        classes=classes,
        counts={split: len(files) for split, files in splits.items()},
        examples=examples,
        every_class=True,
        invalid=config.invalid,
    )


def _find_files(root: Path, config: ImageFolderConfig) -> tuple[tuple[str, ...], Splits]:
    """Names of the classes, and the files of each split."""
    pairs = product(TRAIN_FOLDERS, HELD_OUT_FOLDERS)
    existing = next((pair for pair in pairs if all((root / name).is_dir() for name in pair)), None)
    if existing is None:
        classes, files = _class_files(root, root)
        _check_for_splits(root, classes, files)
        return classes, _split_by_hash(files, held_out=config.held_out)
    if config.held_out != ImageFolderConfig.held_out:
        raise DataError(
            f"data.held_out={config.held_out} has no effect: {printable(str(root))} is already split into "
            f"{existing[0]} and {existing[1]}; omit it"
        )
    train, held_out = existing
    classes, train_files = _class_files(root / train, root)
    other_classes, held_out_files = _class_files(root / held_out, root)
    if classes != other_classes:
        name = min(set(classes) ^ set(other_classes))
        present, missing = (train, held_out) if name in classes else (held_out, train)
        raise DataError(
            f"the classes of {printable(str(root))}/{train} and /{held_out} differ: "
            f"{name} is in {present} and not in {missing}; both need the same folders"
        )
    return classes, {"train": train_files, "validation": held_out_files}


def _class_files(folder: Path, root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Names of the classes in `folder`, and their files."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = tuple(printable(path.name) for path in folders)
    where = printable(str(folder))
    if len(classes) < 2:
        names = f" ({classes[0]})" if classes else ""
        raise DataError(
            f"{where} has {format_count(len(classes), 'class folder')}{names}; classification needs at least "
            f"two: {where}/CLASS/*, or {where}/train/CLASS/* and {where}/test/CLASS/*"
        )
    files = []
    for label, path in enumerate(folders):
        found = [
            ImageFile(printable(file.relative_to(root).as_posix()), file, label)
            for file in walk_files(path, is_excluded=lambda name: name.startswith("."))
        ]
        if not found:
            raise DataError(f"the class folder {printable(str(path))} is empty; add images or remove it")
        files += sorted(found)
    return classes, files


def _check_for_splits(root: Path, classes: tuple[str, ...], files: list[ImageFile]) -> None:
    """Raises DataError if the classes seem to be splits: each contains no image and the same folders."""
    subfolders: list[set[str | None]] = [set() for _ in classes]
    for file in files:
        _, *folders, _ = file.name.split("/")
        subfolders[file.label].add(folders[0] if folders else None)
    first = subfolders[0]
    if None not in first and len(first) > 1 and all(each == first for each in subfolders):
        raise DataError(
            f"{printable(str(root))}: {', '.join(classes)} contain no images, but the same folders: "
            f"{', '.join(sorted(first))}; if these are splits, rename them train and test, otherwise move "
            "images directly into a class"
        )


def _split_by_hash(files: list[ImageFile], *, held_out: float) -> Splits:
    """Divides each class, whose files are consecutive; keeps their order."""
    splits: Splits = {"train": [], "validation": []}
    for _, group in groupby(files, key=lambda file: file.label):
        fractions = {file: hash_fraction(file.name) for file in group}
        ranked = sorted(fractions, key=fractions.get)
        below = sum(fraction < held_out for fraction in fractions.values())
        validation = set(ranked[: min(max(below, 1), len(ranked) - 1)])
        for file in fractions:
            splits["validation" if file in validation else "train"].append(file)
    return splits


def _read(
    files: list[ImageFile], image_size: tuple[int, int] | None, *, channels: int, skip: Callable[[str], None]
) -> Iterator[Example]:
    """Decodes the files on all cores, in order."""

    def decode(file: ImageFile) -> np.ndarray | InvalidImage:
        try:
            image = decode_image(read_file(file.path), channels=channels)
        except InvalidImage as error:
            return error
        # Resized here, so that each thread holds at most one large image.
        return image if image_size is None else fit_images([image], image_size)[0]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), FILES_AT_ONCE):
            some = files[start : start + FILES_AT_ONCE]
            with warnings.catch_warnings(action="ignore"):
                images = list(pool.map(decode, some))
            for file, image in zip(some, images, strict=True):
                if isinstance(image, InvalidImage):
                    skip(f"{file.name}: {image}")
                else:
                    yield Example(file.name, image, file.label)
