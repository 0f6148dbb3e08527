"""Training batches of images, augmented and shuffled, and the normalization of their pixels.

The augmentation is one projective warp of each image, drawn from (seed, image, epoch). `rows` are those of
`data.batches`; `mean` and `deviation` are (channels,) float32 statistics of the training pixels in [0, 1].
"""

from functools import lru_cache

import keras
import numpy as np
import tensorflow as tf

from data.batches import ALL_ROWS, AUGMENT_STREAM, batch_dataset, batch_items, random_generator
from data.config import AugmentConfig
from data.images import ImageSet

FILL_MODES = {"zero": "constant", "reflect": "reflect"}
# Random numbers of one image: rotation, scale, shear, vertical shift, horizontal shift, flip.
NUM_DRAWS = 6


def image_training_dataset(
    image_set: ImageSet,
    *,
    start_step: int,
    num_steps: int,
    batch_size: int,
    seed: int,
    augment: AugmentConfig,
    rows: slice = ALL_ROWS,
) -> tf.data.Dataset:
    """Batches `start_step <= i < num_steps` of an endless run; each epoch has every image once.

    Yields images (rows, height, width, channels) float32 and labels (rows,) int32.
    """
    split, moments = image_set.train, _normalization(image_set.mean, image_set.deviation)
    num_items, (height, width) = len(split.labels), split.images.shape[1:3]
    # (width, channels): TensorFlow takes three times as long to broadcast (channels,).
    scale, offset = (np.tile(values, (width, 1)) for values in moments)

    def batch(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        items, epochs = batch_items(index, batch_size=batch_size, num_items=num_items, seed=seed, rows=rows)
        transforms = random_transforms(
            augment, items, epochs, seed=seed, num_items=num_items, image_size=(height, width)
        )
        return np.asarray(split.images[items]), split.labels[items], transforms

    def transform(images, labels, transforms):
        shape, images = images.shape, tf.cast(images, tf.float32)
        if augment != AugmentConfig():
            images = keras.ops.image.affine_transform(
                images, transforms, fill_mode=FILL_MODES[augment.fill], data_format="channels_last"
            )
        return tf.ensure_shape(images * scale + offset, shape), labels

    dataset = batch_dataset(batch, start_step=start_step, num_steps=num_steps)
    return dataset.map(transform, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def normalize(images: np.ndarray, *, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(images / 255 - mean) / deviation of (..., channels) uint8 images, in float32."""
    scale, offset = _normalization(mean, deviation)
    return images.astype(np.float32) * scale + offset


def _normalization(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of uint8 pixels, (channels,) float32 each."""
    mean, deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    return (1 / (255 * deviation)).astype(np.float32), (-mean / deviation).astype(np.float32)


def random_transforms(
    config: AugmentConfig,
    items: np.ndarray,
    epochs: np.ndarray,
    *,
    seed: int,
    num_items: int,
    image_size: tuple[int, int],
) -> np.ndarray:
    """`affine_transforms` of the images `items`, (batch,), in `epochs`, (batch,).

    Without rotation, scale and shear, shifts are whole pixels, so that they do not blur, except along a side
    where the largest shift is below one pixel.
    """
    draws = np.empty((len(items), NUM_DRAWS))
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        draws[inside] = _epoch_draws(num_items, seed=seed, epoch=int(epoch))[items[inside]]
    rotation, scale, shear, *shift = (2 * draws[:, :5] - 1).T  # (batch,) each, in [-1, 1)
    largest = config.shift * np.array(image_size)
    shift = largest * np.stack(shift, axis=-1)  # (batch, 2)
    if not (config.rotation or config.scale or config.shear):
        shift = np.where(largest >= 1, np.rint(shift), shift)
    return affine_transforms(
        rotation=config.rotation * rotation,
        scale=1 + config.scale * scale,
        shear=config.shear * shear,
        shift=shift,
        flip=config.flip & (draws[:, 5] < 0.5),
        image_size=image_size,
    )


# A batch usually spans at most two epochs.
@lru_cache(maxsize=2)
def _epoch_draws(num_items: int, *, seed: int, epoch: int) -> np.ndarray:
    """(num_items, NUM_DRAWS) float32 in [0, 1); the row of an image does not depend on `num_items`."""
    draws = random_generator(seed, epoch, stream=AUGMENT_STREAM).random((num_items, NUM_DRAWS), np.float32)
    draws.flags.writeable = False
    return draws


def affine_transforms(
    *,
    rotation: np.ndarray,
    scale: np.ndarray,
    shear: np.ndarray,
    shift: np.ndarray,
    flip: np.ndarray,
    image_size: tuple[int, int],
) -> np.ndarray:
    """Transforms about the center of an image: flip, shear, scale, rotation and shift, in this order.

    Rotation (batch,) is in degrees counter-clockwise, shear (batch,) in degrees that move lower rows right,
    shift (batch, 2) in pixels down and to the right. Returns (batch, 8) float32 a0, a1, a2, b0, b1, b2, 0, 0:
    the pixel (x, y) of the result is at (a0 x + a1 y + a2, b0 x + b1 y + b2) of the image. Identity, flip and
    whole shifts are exact.
    """
    angle, lean = np.radians(rotation), np.tan(np.radians(shear))
    sine, cosine, mirror = np.sin(angle), np.cos(angle), np.where(flip, -1.0, 1.0)
    # Of the column vector (x, y), where y points down:
    # inverse flip [[mirror, 0], [0, 1]] @ inverse shear [[1, -lean], [0, 1]] @ inverse rotation and scale.
    rows = mirror * (cosine - lean * sine), -mirror * (sine + lean * cosine), sine, cosine
    matrix = (np.stack(rows, axis=-1) / scale[:, None]).reshape(-1, 2, 2)  # (batch, 2, 2)
    center = (np.array(image_size)[::-1] - 1) / 2
    offset = center - (matrix @ (center + shift[:, ::-1])[..., None])[..., 0]  # (batch, 2)
    coefficients = np.concatenate([matrix, offset[..., None]], axis=-1).reshape(-1, 6)  # (batch, 6)
    return np.pad(coefficients, ((0, 0), (0, 2))).astype(np.float32)  # (batch, 8)
