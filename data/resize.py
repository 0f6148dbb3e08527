"""Images brought to one size."""

from collections.abc import Sequence

import numpy as np


def fit_images(images: Sequence[np.ndarray], image_size: tuple[int, int]) -> np.ndarray:
    """Images that fill `image_size`: what is over at two opposite sides is cut off, and the rest resized.

    Bilinear with antialiasing; an image of that size comes out unchanged.

    Args:
        images: (height, width, channels) uint8 each, of any sizes and one number of channels.
        image_size: height and width in pixels.

    Returns:
        (len(images), *image_size, channels) uint8.
    """
    cut = [_middle(image, image_size) for image in images]
    if len({image.shape for image in cut}) == 1:
        return _resize(np.stack(cut), image_size)
    return np.concatenate([_resize(image[None], image_size) for image in cut])


def _middle(image: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The largest part around the middle of `image` that has the shape of `image_size`."""
    height, width = image.shape[:2]
    scale = min(height / image_size[0], width / image_size[1])
    new_height = max(1, round(image_size[0] * scale))
    new_width = max(1, round(image_size[1] * scale))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[top : top + new_height, left : left + new_width]


def _resize(images: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(batch, height, width, channels) uint8 at `image_size`."""
    if images.shape[1:3] == tuple(image_size):
        return images
    import tensorflow as tf

    # Always on the CPU, so that a file gives the same pixels on every machine.
    with tf.device("/cpu:0"):
        resized = tf.image.resize(images, image_size, method="bilinear", antialias=True)
        return tf.cast(tf.round(resized), tf.uint8).numpy()
