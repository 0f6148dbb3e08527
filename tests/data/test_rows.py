"""A part of the rows of each batch: what one of several processes reads."""

import itertools

import numpy as np
import pytest

from data.batches import evaluation_batches, training_dataset
from data.config import AugmentConfig
from data.image_batches import image_evaluation_batches, image_training_dataset
from data.images import ImageSplit
from data.passkeys import passkey_evaluation_batches, passkey_training_dataset

BATCH, NUM_STEPS = 6, 9
PARTS = [slice(0, 2), slice(2, 4), slice(4, 6)]
TOKENS = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint8)
DRAW = np.random.default_rng(1)
IMAGES = ImageSplit(DRAW.integers(0, 256, (13, 6, 5, 3)).astype(np.uint8), np.arange(13, dtype=np.int32))
SCALES = {"mean": np.full(3, 0.4), "deviation": np.full(3, 0.3)}
STEPS = {"start_step": 0, "num_steps": NUM_STEPS, "seed": 2, "batch_size": BATCH}
MOVES = AugmentConfig(rotation=20.0, flip=True)
# The last batch of an evaluation is so empty that one part of it has no item at all.
SOURCES = {
    "text": lambda rows: training_dataset(TOKENS, length=8, **STEPS, **rows),
    "images": lambda rows: image_training_dataset(IMAGES, augment=MOVES, **STEPS, **SCALES, **rows),
    "passkeys": lambda rows: passkey_training_dataset(length=60, digits=2, texts=2, **STEPS, **rows),
    "held-out text": lambda rows: evaluation_batches(TOKENS[:120], batch_size=BATCH, length=8, **rows),
    "held-out images": lambda rows: image_evaluation_batches(IMAGES, batch_size=BATCH, **SCALES, **rows),
    "held-out passkeys": lambda rows: passkey_evaluation_batches(
        8, batch_size=BATCH, length=60, digits=2, **rows
    ),
    "some held-out text": lambda rows: evaluation_batches(
        TOKENS, batch_size=BATCH, length=8, max_batches=2, **rows
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_parts_of_a_batch_make_up_the_batch(source):
    whole = SOURCES[source]({})
    parts = [SOURCES[source]({"rows": rows}) for rows in PARTS]
    assert {len(each) for each in (whole, *parts)} == {len(whole)}
    for batch, *of_batch in zip(whole, *parts, strict=True):
        for index, value in enumerate(batch):
            pieces = [np.asarray(part[index]) for part in of_batch]
            assert [len(piece) for piece in pieces] == [2, 2, 2]
            np.testing.assert_array_equal(np.concatenate(pieces), value)


def test_the_parts_differ():
    parts = [next(iter(SOURCES["text"]({"rows": rows})))[0].numpy() for rows in PARTS]
    assert all((a != b).any() for a, b in itertools.combinations(parts, 2))
