"""The handwritten digits that come with scikit-learn."""

import numpy as np

SPLIT_SEED = 0
HELD_OUT = 0.2


def load_digits() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Images (1797, 8, 8, 1) uint8, labels (1797,) int32, and the indices of each split.

    One fifth is held out, of each digit alike: always the same, whatever the seed of a run.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, validation = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return images, labels, {"train": train, "validation": validation}
