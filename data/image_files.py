"""Image files, decoded with Pillow; what a file is called does not matter."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.resize import fit_images
from data.sources import printable
from system.errors import DataError


class InvalidImage(ValueError):
    """Bytes that are no image; the message is the reason alone."""


def read_image(path: Path | str, *, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """The image in a file as a model with `channels` sees it: (*image_size, channels) uint8.

    Raises:
        DataError: if the file is missing or no image, or a file cannot give that many channels.
    """
    if channels not in (1, 3):
        raise DataError(f"an image file gives 1 or 3 channels, but the model takes {channels}")
    name = printable(str(path))
    try:
        with quiet():
            image = decode_image(read_bytes(Path(path)), channels=channels)
    except InvalidImage as reason:
        raise DataError(f"{name}: {reason}; name an image file") from reason
    return fit_images([image], image_size)[0]


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {printable(str(path))}: {error.strerror}") from error


def decode_image(raw: bytes, *, channels: int) -> np.ndarray:
    """(height, width, channels) uint8 pixels, upright as EXIF says; of an animation, the first frame.

    What is transparent becomes white, and 16-bit grey becomes 8-bit grey.

    Args:
        channels: 1 for grey, 3 for RGB.

    Raises:
        InvalidImage: if Pillow cannot read `raw`, or it has too many pixels or 32-bit ones.
    """
    from PIL import ImageOps

    image = _open(raw)
    try:
        pixels = np.asarray(_plain(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB"))
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise InvalidImage(f"a damaged image ({error})") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def has_colour(path: Path) -> bool:
    """Whether a file is an image of more than one channel; reads no pixels."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return not (image.mode in ("1", "L", "LA") or image.mode.startswith("I;16"))
    except Exception:
        return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow's warnings of large or odd files to itself, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(raw: bytes):
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(raw))
    except Image.DecompressionBombError as error:
        raise InvalidImage(f"an image of more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:
        raise InvalidImage("not an image that Pillow can read") from error
    if image.mode in ("I", "F"):
        raise InvalidImage("an image with 32-bit pixels, whose range is unknown")
    return image


def _plain(image):
    """The image without transparency and with 8 bits a channel."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
