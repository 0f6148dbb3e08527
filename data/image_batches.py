"""Images as batches: augmented and in random order to train on, in their own order to evaluate on."""

import numpy as np

from data.augment import is_augmented, random_transforms, warp
from data.batches import IGNORED_TARGET, EvaluationBatches
from data.config import AugmentConfig
from data.image_store import ImageSplit
from data.order import ALL_ROWS, batch_items, number_of_rows


def image_training_dataset(
    split: ImageSplit,
    *,
    start_step: int,
    num_steps: int,
    batch_size: int,
    seed: int,
    augment: AugmentConfig,
    mean: np.ndarray,
    deviation: np.ndarray,
    rows: slice = ALL_ROWS,
):
    """The batches `start_step` to `num_steps - 1` of an endless run as a `tf.data.Dataset`.

    An epoch visits each image once, in a random order. Batch i is a function of (seed, i), and the moves of
    an image of (seed, image, epoch). A run that stopped after step k goes on with `start_step=k`.

    Args:
        split: images and labels.
        augment: how images are moved at random.
        mean: (channels,) float32, of values in [0, 1].
        deviation: (channels,) float32, of the same.
        rows: of each batch that are wanted; each is what it is in the whole batch.

    Yields:
        Normalised images (rows, height, width, channels) float32, and labels (rows,) int32.
    """
    import tensorflow as tf

    shape = split.images.shape[1:]
    num_items, num_rows = len(split.labels), number_of_rows(batch_size, rows)
    # A row of pixels at a time: TensorFlow takes three times as long over the channels of each.
    factor, offset = (np.tile(numbers, (shape[1], 1)) for numbers in _normalization(mean, deviation))
    moves = is_augmented(augment)

    def gather(index):
        batch = batch_items(int(index), batch_size=batch_size, num_items=num_items, seed=seed)
        items, epochs = (part[rows] for part in batch)
        transforms = np.zeros((num_rows, 8), np.float32)
        if moves:
            transforms = random_transforms(
                augment, items, epochs, seed=seed, num_items=num_items, image_size=shape[:2]
            )
        return np.asarray(split.images[items]), split.labels[items], transforms

    def load(index):
        images, labels, transforms = tf.numpy_function(gather, [index], [tf.uint8, tf.int32, tf.float32])
        labels.set_shape((num_rows,))
        images = tf.cast(images, tf.float32)
        if moves:
            images = warp(images, transforms, fill=augment.fill)
        return tf.ensure_shape(images * factor + offset, (num_rows, *shape)), labels

    steps = tf.data.Dataset.range(start_step, num_steps)
    return steps.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def image_evaluation_batches(
    split: ImageSplit,
    *,
    batch_size: int,
    mean: np.ndarray,
    deviation: np.ndarray,
    max_batches: int | None = None,
    rows: slice = ALL_ROWS,
) -> EvaluationBatches:
    """Every image exactly once, in the order of the split, or some of them evenly spread.

    An item is (images (rows, height, width, channels) float32, labels (rows,) int32). The last batch is
    filled up with black images of the label -1, which does not count.

    Args:
        mean: (channels,) float32, as in training; likewise `deviation`.
        max_batches: with fewer batches than there are, images evenly spread.
        rows: of each batch that are wanted.
    """
    num_rows = number_of_rows(batch_size, rows)

    def load(items):
        images = np.zeros((num_rows, *split.images.shape[1:]), np.uint8)
        labels = np.full(num_rows, IGNORED_TARGET, np.int32)
        images[: len(items)] = split.images[items]
        labels[: len(items)] = split.labels[items]
        return normalized(images, mean=mean, deviation=deviation), labels

    return EvaluationBatches(
        len(split.labels), load, batch_size=batch_size, max_batches=max_batches, rows=rows
    )


def normalized(images: np.ndarray, *, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(images / 255 - mean) / deviation of (..., channels) uint8 images, in float32."""
    factor, offset = _normalization(mean, deviation)
    return images.astype(np.float32) * factor + offset


def _normalization(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a pixel is multiplied by, and what is added, (channels,) float32 each."""
    mean, deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    return (1 / (255 * deviation)).astype(np.float32), (-mean / deviation).astype(np.float32)
