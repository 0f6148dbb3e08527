"""Image files: decoding with Pillow, resizing, and datasets with one folder for each class."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from data.config import ImageFolderConfig
from data.sources import Example, ImageSource, Split, file_state, hash_fraction, read_file
from system.errors import DataError, reason
from system.files import walk_files
from system.text import format_count, printable

# Names of the folders of the splits; the first of each that exists is used.
TRAIN_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("validation", "val", "valid", "dev", "eval", "test", "testing")
FILES_AT_ONCE = 64


class InvalidImage(ValueError):
    """Bytes that are not a readable image; the message is the reason."""


def read_image(path: Path | str, *, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Reads an image file as a model input, (*image_size, channels) uint8.

    Raises:
        DataError: if the file cannot be read or is not an image.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            image = decode_image(read_file(Path(path)), channels=channels)
    except InvalidImage as error:
        raise DataError(f"{printable(str(path))}: {error}; choose an image file") from error
    return fit_images([image], image_size)[0]


def decode_image(raw: bytes, *, channels: int) -> np.ndarray:
    """(height, width, channels) uint8 pixels, rotated as EXIF says; the first frame of an animation.

    One channel is grey, three are RGB. Transparent pixels become white, and 16-bit grey becomes 8-bit grey.

    Raises:
        InvalidImage: if Pillow cannot decode `raw`, or its pixels have 32 bits.
    """
    try:
        image = Image.open(io.BytesIO(raw))
        upright = _eight_bits(ImageOps.exif_transpose(image))
        pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise InvalidImage("not an image that Pillow can read") from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise InvalidImage(f"cannot be decoded ({reason(error)})") from error
    if image.mode in ("I", "F"):
        raise InvalidImage("has 32-bit pixels, whose range is unknown")
    return pixels.reshape(*pixels.shape[:2], channels)  # (height, width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image without transparency and with 8 bits in each channel."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def has_colour(path: Path) -> bool:
    """Whether a file is an image of more than one channel; reads the header only."""
    try:
        with Image.open(path) as image:
            return not (image.mode in ("1", "L", "LA") or image.mode.startswith("I;16"))
    except Exception:
        return False


def fit_images(images: Sequence[np.ndarray], image_size: tuple[int, int]) -> np.ndarray:
    """Centre-crops images to the aspect ratio of `image_size` and resizes them.

    Bilinear with antialiasing; an image of that size is unchanged. Images are (height, width, channels) uint8
    of any sizes; the result is (len(images), *image_size, channels) uint8.
    """
    cropped = [_crop(image, image_size) for image in images]
    if len({image.shape for image in cropped}) == 1:
        return _resize(np.stack(cropped), image_size)
    return np.concatenate([_resize(image[None], image_size) for image in cropped])


def _crop(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(height / image_size[0], width / image_size[1])
    new_height = max(1, round(image_size[0] * scale))
    new_width = max(1, round(image_size[1] * scale))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[top : top + new_height, left : left + new_width]  # (new_height, new_width, channels)


def _resize(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    if images.shape[1:3] == tuple(image_size):
        return images
    # Always on the CPU, so that a file gives the same pixels on every machine.
    with tf.device("/cpu:0"):
        resized = tf.image.resize(images, image_size, method="bilinear", antialias=True)
        return tf.cast(tf.round(resized), tf.uint8).numpy()


class ImageFile(NamedTuple):
    """Image file of a dataset; `name` is its path relative to the dataset folder."""

    name: str
    path: Path
    label: int


Splits = dict[Split, list[ImageFile]]


def image_folder_source(config: ImageFolderConfig) -> ImageSource:
    """Image dataset in `config.path`, ordered by class and name.

    A class is a folder, and its images are all files below it, except hidden files and folders. If the path
    has one of `TRAIN_FOLDERS` and one of `HELD_OUT_FOLDERS`, these are the splits. Otherwise files whose name
    hashes below `config.held_out` are held out, so that a file keeps its split when others are added or
    removed; each class has at least one image in both splits.

    Raises:
        DataError: if a folder cannot be read or is not of this form, or `held_out` is set although the splits
            exist.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data.path={config.path} {problem}; choose a folder with one folder for each class")
    try:
        classes, splits = _find_files(root, config)
        states = {
            split: [file_state(file.name, file.path) for file in files] for split, files in splits.items()
        }
    except OSError as error:
        raise DataError(f"cannot read {printable(str(error.filename))}: {reason(error)}") from error

    def examples(split: Split, skip: Callable[[str], None]) -> Iterator[Example]:
        with warnings.catch_warnings(action="ignore"):
            is_grey = not any(has_colour(file.path) for files in splits.values() for file in files)
        return _read(splits[split], config.image_size, channels=1 if is_grey else 3, skip=skip)

    return ImageSource(
        name=printable(f"{config.source} {config.path}"),
        identity={"root": printable(str(root.absolute())), "files": states, "invalid": config.invalid},
        num_items=sum(map(len, splits.values())),
        classes=classes,
        examples=examples,
        every_class=True,
        invalid=config.invalid,
    )


def _find_files(root: Path, config: ImageFolderConfig) -> tuple[tuple[str, ...], Splits]:
    """Names of the classes, and the files of each split."""
    train, held_out = (
        next((name for name in names if (root / name).is_dir()), None)
        for names in (TRAIN_FOLDERS, HELD_OUT_FOLDERS)
    )
    if train is None or held_out is None:
        classes, files = _class_files(root, root)
        _check_for_splits(root, classes, files)
        return classes, _split_by_hash(files, held_out=config.held_out)
    if config.held_out != ImageFolderConfig.held_out:
        raise DataError(
            f"data.held_out={config.held_out} has no effect: {printable(str(root))} is already split into "
            f"{train} and {held_out}; omit it"
        )
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
    """Decodes the files on all cores and yields them in order."""

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
