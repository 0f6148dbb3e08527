"""Image files: decoding with Pillow, resizing, and datasets with one folder for each class."""

import contextlib
import hashlib
import io
import os
import re
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from data.config import ImageFolderConfig
from data.sources import MOVED_HINT, Report, Source, Split, check_regular, file_state, read_file
from system.command import available_cores
from system.errors import DataError, reason
from system.files import walk_files
from system.text import format_count, printable

# Names of the folders of the splits; the first of each that exists is used.
TRAIN_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("validation", "val", "valid", "dev", "eval", "test", "testing")
# Names of other files beside photos: hidden ones, descriptions, archives, videos, databases.
OTHER_NAMES = re.compile(
    r"^\.|\.(aae|csv|db|docx|html|ini|json|log|md|mov|mp4|pdf|py|txt|url|xml|xmp|yaml|zip)$", re.IGNORECASE
)
FILES_AT_ONCE = 64
# Native decoders. Others of Pillow start programs: EPS runs Ghostscript, whatever the name of the file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ROUND_UP = 0.501  # so that errors of float32 do not decide on halves
warnings.filterwarnings("ignore", "Corrupt EXIF data", module="PIL")


def read_image(path: Path | str, *, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Reads an image file as a model input, (*image_size, channels) uint8; raises DataError if it cannot."""
    raw = read_file(Path(path))
    try:
        image = decode_image(raw, channels=channels)
    except DataError as error:
        raise DataError(f"{path}: {error}; choose an image file") from error
    return fit_images(image[None], image_size)[0]


def decode_image(raw: bytes, *, channels: int) -> np.ndarray:
    """(height, width, channels) uint8 pixels, rotated as EXIF says; the first frame of an animation.

    One channel is grey, three are RGB. Transparent pixels become white, and 16-bit grey becomes 8-bit grey.
    Raises DataError if Pillow cannot decode `raw`, or its pixels have 32 bits.
    """
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
        image.load()
        with contextlib.suppress(Exception):  # broken EXIF
            image = ImageOps.exif_transpose(image)
        pixels = np.asarray(to_eight_bits(image).convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise DataError("not an image in a supported format") from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise DataError(f"cannot be decoded ({reason(error)})") from error
    if image.mode in ("I", "F"):
        raise DataError("has 32-bit pixels, whose range is unknown")
    return pixels.reshape(*pixels.shape[:2], channels)  # (height, width, channels)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """The image without transparency and with 8 bits in each channel."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def has_color(path: Path) -> bool:
    """Whether a file is an image of more than one channel; reads the header only."""
    with contextlib.suppress(Exception):
        check_regular(path)
        with Image.open(path, formats=FORMATS) as image:
            return not (image.mode in ("1", "L", "LA") or image.mode.startswith("I;16"))
    return False


def fit_images(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Center-crops images to the aspect ratio of `image_size` and resizes them.

    Bilinear with antialiasing; images of that size are unchanged. `images` are (count, height, width,
    channels) uint8, the result is (count, *image_size, channels) uint8.
    """
    height, width = images.shape[1:3]
    scale = min(height / image_size[0], width / image_size[1])
    new_height, new_width = (max(1, round(side * scale)) for side in image_size)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    bottom, right = top + new_height, left + new_width
    images = images[:, top:bottom, left:right]  # (count, new_height, new_width, channels)
    if (new_height, new_width) == tuple(image_size):
        return images
    # Always on the CPU, so that a file gives the same pixels on every machine.
    with tf.device("/cpu:0"):
        resized = tf.image.resize(images, image_size, method="bilinear", antialias=True)
        return tf.cast(tf.floor(resized + ROUND_UP), tf.uint8).numpy()  # (count, *image_size, channels)


def list_images(root: Path, *, report: Report, classes: Collection[str] = ()) -> list[tuple[str, Path]]:
    """Sorted names and paths of the image files below `root`, or its folders `classes`; no hidden folders."""
    found = walk_files(root, lambda parts, is_directory: not (is_directory and parts[-1].startswith(".")))
    images, others = [], []
    for name, path in found:
        if not classes or name.split("/")[0] in classes:
            (others if OTHER_NAMES.search(path.name) else images).append((name, path))
    if others:
        report(f"skipped {format_count(len(others), 'file')} that cannot be images, first: {others[0][0]}")
    return images


def image_folder_source(config: ImageFolderConfig, *, report: Report) -> Source:
    """Image dataset in `config.path`, ordered by class and name; all files below a folder are of its class.

    If the path has one of `TRAIN_FOLDERS` and one of `HELD_OUT_FOLDERS`, these are the splits; otherwise
    `held_out` of each class is held out. Raises DataError if the folder is not of this form.
    """
    root = Path(config.path)
    if not root.is_dir():
        raise DataError(f"data.path={config.path} is not a folder; choose that of the classes{MOVED_HINT}")
    classes, splits = find_splits(root, config, report)
    states = {split: [file_state(name, path) for name, path, _ in files] for split, files in splits.items()}

    def items(split: Split) -> Iterator[tuple]:
        is_color = any(has_color(path) for files in splits.values() for _, path, _ in files)
        return read_images(splits[split], config.image_size, channels=3 if is_color else 1)

    return Source(
        name=f"{config.source} {config.path}",
        identity={"root": str(root.absolute()), "files": states, "invalid": config.invalid},
        num_items=sum(map(len, splits.values())),
        unit="image",
        items=items,
        held_out=None if "validation" in splits else config.held_out,
        classes=classes,
        invalid=config.invalid,
    )


def find_splits(root: Path, config: ImageFolderConfig, report: Report) -> tuple[tuple, dict[Split, list]]:
    """Names of the classes, and name, path and label of the files of each split, or of `train` alone."""
    train, held_out = (
        next((name for name in names if os.path.isdir(root / name)), None)
        for names in (TRAIN_FOLDERS, HELD_OUT_FOLDERS)
    )
    if train is None or held_out is None:
        classes, files = find_classes(root, report)
        return classes, {"train": files}
    if config.held_out != ImageFolderConfig.held_out:
        raise DataError(f"data.held_out has no effect: {root} is split into {train} and {held_out}; omit it")
    classes, train_files = find_classes(root / train, report, prefix=f"{train}/")
    other_classes, held_out_files = find_classes(root / held_out, report, prefix=f"{held_out}/")
    if classes != other_classes:
        names = ", ".join(sorted(set(classes) ^ set(other_classes)))
        raise DataError(f"the classes in {root}/{train} and {held_out} differ: {names}; both need the same")
    return classes, {"train": train_files, "validation": held_out_files}


def find_classes(folder: Path, report: Report, *, prefix: str = "") -> tuple[tuple[str, ...], list[tuple]]:
    """Names of the classes in `folder`, and name, path and label of their files; `prefix` starts names."""
    folders = {printable(path.name) for path in folder.iterdir() if os.path.isdir(path)}
    classes = tuple(sorted(name for name in folders if not name.startswith(".")))
    labels = {name: label for label, name in enumerate(classes)}
    if len(classes) < 2:
        raise DataError(
            f"{folder} has too few class folders: {', '.join(classes) or 'none'}; classification needs at "
            f"least two: {folder}/CLASS/*, or {folder}/train/CLASS/* and {folder}/test/CLASS/*"
        )
    found = list_images(folder, report=report, classes=classes)
    files = [(prefix + name, path, labels[name.split("/")[0]]) for name, path in found]
    for label in set(labels.values()) - {label for *_, label in files}:
        raise DataError(f"the class folder {folder / classes[label]} has no image: remove it or add images")
    return classes, files


def read_images(files: list[tuple], image_size: tuple[int, int] | None, *, channels: int) -> Iterator[tuple]:
    """Decodes the files on all cores; yields name, pixels or error, label and SHA-256 of each in order."""

    def decode(file: tuple) -> tuple:
        name, path, label = file
        try:
            raw = read_file(path)
            image = decode_image(raw, channels=channels)
        except DataError as error:
            return name, error, label
        # Resized here, so that each thread holds at most one large image.
        if image_size is not None:
            image = fit_images(image[None], image_size)[0]
        return name, image, label, hashlib.sha256(raw).digest()

    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(files), FILES_AT_ONCE):
            yield from pool.map(decode, files[start : start + FILES_AT_ONCE])
