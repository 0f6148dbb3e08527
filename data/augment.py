"""Random affine moves of images: one projective warp an image, drawn from (seed, image, epoch)."""

from functools import lru_cache

import numpy as np

from data.config import AugmentConfig
from data.order import AUGMENT_STREAM, epoch_generator

FILL_MODES = {"zero": "CONSTANT", "reflect": "REFLECT"}
# Of one image: rotation, scale, shear, vertical shift, horizontal shift, flip.
NUM_DRAWS = 6


def is_augmented(config: AugmentConfig) -> bool:
    """Whether `config` moves anything."""
    return bool(config.rotation or config.scale or config.shear or config.shift or config.flip)


def random_transforms(
    config: AugmentConfig,
    items: np.ndarray,
    epochs: np.ndarray,
    *,
    seed: int,
    num_items: int,
    image_size: tuple[int, int],
) -> np.ndarray:
    """The moves of some images, each a function of (seed, item, epoch) alone.

    A shift goes in whole pixels where nothing but flips comes with it, so that it blurs nothing; along a
    side so short that it would be less than one pixel, it goes in parts of it.

    Args:
        items: (batch,) indices of images.
        epochs: (batch,) the epoch of each.
        num_items: number of images in the set.
        image_size: height and width.

    Returns:
        (batch, 8) float32, as `warp` takes them.
    """
    draws = np.empty((len(items), NUM_DRAWS))
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        draws[inside] = _epoch_draws(num_items, seed=seed, epoch=int(epoch))[items[inside]]
    rotation, scale, shear, *shift = (2 * draws[:, :5] - 1).T  # each in [-1, 1)
    furthest = config.shift * np.array(image_size)
    shift = furthest * np.stack(shift, axis=-1)
    if not (config.rotation or config.scale or config.shear):
        shift = np.where(furthest >= 1, np.rint(shift), shift)
    return affine_transforms(
        rotation=config.rotation * rotation,
        scale=1 + config.scale * scale,
        shear=config.shear * shear,
        shift=shift,
        flip=config.flip & (draws[:, 5] < 0.5),
        image_size=image_size,
    )


def affine_transforms(
    *,
    rotation: np.ndarray,
    scale: np.ndarray,
    shear: np.ndarray,
    shift: np.ndarray,
    flip: np.ndarray,
    image_size: tuple[int, int],
) -> np.ndarray:
    """Moves about the centre of an image: flipped, sheared, scaled, rotated and shifted, in this order.

    Args:
        rotation: (batch,) degrees; positive turns counter-clockwise.
        scale: (batch,) factors; above 1 enlarges.
        shear: (batch,) degrees that the vertical leans; positive moves what is below to the right.
        shift: (batch, 2) pixels down and to the right.
        flip: (batch,) booleans: left to right.
        image_size: height and width.

    Returns:
        (batch, 8) float32 rows of the projections that lead from a pixel of the result, (x, y), to its
        place in the image; the numbers of an identity, a flip and a whole shift are exact.
    """
    angle, lean = np.radians(rotation), np.tan(np.radians(shear))
    sine, cosine = np.sin(angle), np.cos(angle)
    zero, one = np.zeros_like(angle), np.ones_like(angle)
    # Each undoes one move of the column vector (x, y), where y points down.
    turn_back = _matrices(cosine, -sine, sine, cosine) / scale[:, None, None]
    straighten = _matrices(one, -lean, zero, one)
    flip_back = _matrices(np.where(flip, -1.0, 1.0), zero, zero, one)
    matrix = flip_back @ straighten @ turn_back
    centre = (np.array(image_size)[::-1] - 1) / 2
    offset = centre - (matrix @ (centre + shift[:, ::-1])[..., None])[..., 0]
    rows = np.concatenate([matrix, offset[..., None]], axis=-1).reshape(-1, 6)  # (batch, 2 rows of 3)
    return np.pad(rows, ((0, 0), (0, 2))).astype(np.float32)


def warp(images, transforms, *, fill: str):
    """Images moved by `transforms`, with bilinear interpolation.

    Args:
        images: (batch, height, width, channels) float32.
        transforms: (batch, 8) float32 of `affine_transforms`.
        fill: "zero" or "reflect", for what comes in over the edge.

    Returns:
        The shape of `images`, float32.
    """
    import tensorflow as tf

    if fill not in FILL_MODES:
        raise ValueError(f"fill must be one of {', '.join(FILL_MODES)}, got {fill!r}")
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=FILL_MODES[fill],
    )


# A batch touches one epoch, or two where they meet.
@lru_cache(maxsize=2)
def _epoch_draws(num_items: int, *, seed: int, epoch: int) -> np.ndarray:
    """(num_items, NUM_DRAWS) float32 in [0, 1); the row of an image does not depend on `num_items`."""
    generator = epoch_generator(seed, epoch, stream=AUGMENT_STREAM)
    draws = generator.random((num_items, NUM_DRAWS), np.float32)
    draws.flags.writeable = False
    return draws


def _matrices(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(batch, 2, 2) of the entries [[a, b], [c, d]]."""
    return np.stack([np.stack([a, b], axis=-1), np.stack([c, d], axis=-1)], axis=-2)
