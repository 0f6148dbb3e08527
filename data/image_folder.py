"""Image folders as a source: one folder a class."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path

import numpy as np

from data.config import ImageFolderConfig
from data.image_files import InvalidImage, decode_image, has_colour, quiet, read_bytes
from data.image_store import Example, ImageSource, chunks
from data.resize import fit_images
from data.sources import printable
from data.split import Split, hash_fraction
from system.errors import DataError

# Names of the folders of two splits; of several, the first of each.
TRAIN_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("validation", "val", "valid", "dev", "eval", "test", "testing")
FILES_AT_ONCE = 64


@dataclass(frozen=True)
class ImageFile:
    """One file: `name` is its path relative to the folder that the user named."""

    name: str
    path: Path
    label: int


def image_folder_source(config: ImageFolderConfig) -> ImageSource:
    """The images below `config.path`, in the order of their classes and names.

    A class is a folder, and its images all files in it, at any depth; hidden files and folders do not count.
    Where the path has one of `TRAIN_FOLDERS` and one of `HELD_OUT_FOLDERS`, these are the splits. Otherwise
    files are held out whose names hash below `config.held_out`: a file keeps its side when others come or
    go. Each class has the file with the lowest hash held out and the one with the highest trained on.

    Raises:
        DataError: if there are no class folders, one only, an empty one, or different ones in the splits; if
            a folder cannot be read, or `held_out` is set where the splits are given.
    """
    root = Path(config.path).expanduser()
    try:
        classes, splits = _classes_and_splits(root, config)
    except OSError as error:
        raise DataError(f"cannot read {printable(str(error.filename))}: {error.strerror}") from error
    listed = [file for split in splits.values() for file in split]

    def examples(split: Split, skip: Callable[[str], None]) -> Iterator[Example]:
        with quiet():
            channels = 3 if any(has_colour(file.path) for file in listed) else 1
        return _read(splits[split], config, channels=channels, skip=skip)

    return ImageSource(
        name=printable(f"{config.source} {config.path}"),
        identity=_identity(config, root, splits),
        classes=classes,
        counts={split: len(files) for split, files in splits.items()},
        examples=examples,
        every_class=True,
    )


def _classes_and_splits(
    root: Path, config: ImageFolderConfig
) -> tuple[tuple[str, ...], dict[Split, list[ImageFile]]]:
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.path={config.path} {state}; name a folder with one folder a class")
    pairs = product(TRAIN_FOLDERS, HELD_OUT_FOLDERS)
    given = next((pair for pair in pairs if all((root / name).is_dir() for name in pair)), None)
    if given is None:
        classes, files = _class_files(root, root)
        _check_for_splits(root, classes, files)
        return classes, _split_by_hash(files, held_out=config.held_out)
    if config.held_out != ImageFolderConfig.held_out:
        raise DataError(
            f"data.held_out={config.held_out} has no effect: {printable(str(root))} is divided already, into "
            f"{given[0]} and {given[1]}; leave it out"
        )
    return _given_splits(root, *given)


def _check_for_splits(root: Path, classes: tuple[str, ...], files: list[ImageFile]) -> None:
    """Raises DataError if what was taken for classes seems to be splits: all hold the same folders alone."""
    first, *others = (
        {file.path.relative_to(root).parts[1:-1][:1] for file in group}  # () for an image right in the class
        for _, group in groupby(files, key=lambda file: file.label)
    )
    if () not in first and len(first) > 1 and all(folders == first for folders in others):
        inner = printable(", ".join(name for (name,) in sorted(first)))
        raise DataError(
            f"{printable(str(root))}: {', '.join(classes)} hold no images, but the same folders: {inner}; "
            "these look like splits, so name them train and test, or else put images right into a class"
        )


def _class_files(folder: Path, root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    """Names of the classes in `folder`, and their files."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = tuple(printable(path.name) for path in folders)
    where = printable(str(folder))
    if len(classes) == 1 and classes[0] in TRAIN_FOLDERS:
        raise DataError(
            f"{where} has the folder {classes[0]}, but none of {', '.join(HELD_OUT_FOLDERS)} beside it; add "
            f"one, or set data.path={where}/{classes[0]} to hold out a part of it"
        )
    if not classes:
        raise DataError(f"{where} has no class folders; put images in one folder a class: {where}/CLASS/*")
    if len(classes) == 1:
        raise DataError(f"{where} has one class only, {classes[0]}; to tell classes apart it takes two")
    files = []
    for label, path in enumerate(folders):
        found = [ImageFile(_name(file, root), file, label) for file in _visible_files(path)]
        if not found:
            raise DataError(f"the class folder {printable(str(path))} is empty; add images or remove it")
        files += sorted(found, key=lambda file: file.name)
    return classes, files


def _visible_files(folder: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(folder, onerror=_raise):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        yield from (Path(directory, name) for name in names if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def _given_splits(
    root: Path, train_folder: str, held_out_folder: str
) -> tuple[tuple[str, ...], dict[Split, list[ImageFile]]]:
    classes, train = _class_files(root / train_folder, root)
    other_classes, validation = _class_files(root / held_out_folder, root)
    if classes != other_classes:
        name = min(set(classes) ^ set(other_classes))
        folders = train_folder, held_out_folder
        there, missing = folders if name in classes else folders[::-1]
        raise DataError(
            f"the classes of {printable(str(root))}/{train_folder} and /{held_out_folder} differ: "
            f"{name} is in {there} and not in {missing}; both need the same folders"
        )
    return classes, {"train": train, "validation": validation}


def _split_by_hash(files: list[ImageFile], *, held_out: float) -> dict[Split, list[ImageFile]]:
    """Files of one class are together in `files`, and stay in order."""
    splits: dict[Split, list[ImageFile]] = {"train": [], "validation": []}
    for _, group in groupby(files, key=lambda file: file.label):
        fractions = {file: hash_fraction(file.name) for file in group}
        ranked = sorted(fractions, key=fractions.get)
        below = sum(fraction < held_out for fraction in fractions.values())
        validation = set(ranked[: min(max(below, 1), len(ranked) - 1)])
        for file in fractions:
            splits["validation" if file in validation else "train"].append(file)
    return splits


def _identity(config: ImageFolderConfig, root: Path, splits: dict[Split, list[ImageFile]]) -> dict:
    """JSON values that change whenever an image or its side may have changed."""
    return {
        "root": printable(str(root.absolute())),
        "files": {split: [_stamp(file) for file in files] for split, files in splits.items()},
        "invalid": config.invalid,
    }


def _stamp(file: ImageFile) -> tuple[str, int, int]:
    try:
        stat = file.path.stat()
    except OSError as error:
        raise DataError(f"cannot read {printable(str(file.path))}: {error.strerror}") from error
    return file.name, stat.st_size, stat.st_mtime_ns


def _read(
    files: Iterable[ImageFile], config: ImageFolderConfig, *, channels: int, skip: Callable[[str], None]
) -> Iterator[Example]:
    def pixels(file: ImageFile) -> np.ndarray | InvalidImage:
        try:
            image = decode_image(read_bytes(file.path), channels=channels)
        except InvalidImage as reason:
            return reason
        # At once, so that no more than one large image a thread is in memory.
        return image if config.image_size is None else fit_images([image], config.image_size)[0]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for some in chunks(files, FILES_AT_ONCE):
            with quiet():
                images = list(pool.map(pixels, some))
            for file, image in zip(some, images, strict=True):
                if not isinstance(image, InvalidImage):
                    yield Example(file.name, image, file.label)
                elif config.invalid == "skip":
                    skip(f"{file.name}: {image}")
                else:
                    raise DataError(
                        f"{file.name}: {image}; mend or remove the file, or set data.invalid=skip"
                    )
