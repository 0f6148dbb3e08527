"""Image files: decoded with Pillow, whatever their name, and brought to one size."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from data.sources import read_file
from system.errors import DataError, reason
from system.text import printable


class InvalidImage(ValueError):
    """Bytes that are not a readable image; the message is the reason."""


def read_image(path: Path | str, *, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Image of a file as input of a model: (*image_size, channels) uint8.

    Raises:
        DataError: if the file is missing or not an image, or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise DataError(f"an image file has 1 or 3 channels, but the model takes {channels}")
    try:
        with warnings.catch_warnings(action="ignore"):
            image = decode_image(read_file(Path(path)), channels=channels)
    except InvalidImage as error:
        raise DataError(f"{printable(str(path))}: {error}; choose an image file") from error
    return fit_images([image], image_size)[0]


def decode_image(raw: bytes, *, channels: int) -> np.ndarray:
    """(height, width, channels) uint8 pixels, rotated as EXIF says; the first frame of an animation.

    Transparent pixels become white, and 16-bit grey becomes 8-bit grey.

    Args:
        channels: 1 for grey, 3 for RGB.

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
    """Images cropped about their middle to the aspect ratio of `image_size`, then resized.

    Bilinear with antialiasing; an image of that size is unchanged.

    Args:
        images: (height, width, channels) uint8 each, of any sizes and one number of channels.
        image_size: height and width in pixels.

    Returns:
        (len(images), *image_size, channels) uint8.
    """
    cropped = [_crop(image, image_size) for image in images]
    if len({image.shape for image in cropped}) == 1:
        return _resize(np.stack(cropped), image_size)
    return np.concatenate([_resize(image[None], image_size) for image in cropped])


def _crop(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Largest part about the middle of `image` with the aspect ratio of `image_size`."""
    height, width = image.shape[:2]
    scale = min(height / image_size[0], width / image_size[1])
    new_height = max(1, round(image_size[0] * scale))
    new_width = max(1, round(image_size[1] * scale))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[top : top + new_height, left : left + new_width]  # (new_height, new_width, channels)


def _resize(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(batch, *image_size, channels) uint8."""
    if images.shape[1:3] == tuple(image_size):
        return images
    # Always on the CPU, so that a file gives the same pixels on every machine.
    with tf.device("/cpu:0"):
        resized = tf.image.resize(images, image_size, method="bilinear", antialias=True)
        return tf.cast(tf.round(resized), tf.uint8).numpy()
