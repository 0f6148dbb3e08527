import math

import numpy as np
import pytest

from runs.evaluate_windows import mean_over_documents


def make_losses(documents, seed=0):
    """Sums and counts of documents that differ in length and mean loss."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(5, 60, documents)
    levels = 2 + draw.normal(size=documents)
    sums = np.array([(level + draw.normal(size=n)).sum() for level, n in zip(levels, counts, strict=True)])
    return sums, counts.astype(float)


def test_the_mean_is_over_targets_and_one_document_has_no_standard_error():
    mean, _ = mean_over_documents(np.array([2.0, 30.0]), np.array([1.0, 9.0]))
    assert mean == pytest.approx(3.2)
    mean, error = mean_over_documents(np.array([6.0]), np.array([4.0]))
    assert mean == 1.5
    assert error is None


def test_the_standard_error_matches_a_bootstrap_over_documents():
    sums, counts = make_losses(200)
    draws = np.random.default_rng(1).integers(200, size=(4_000, 200))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    _, error = mean_over_documents(sums, counts)
    # The bootstrap has an error of 1 / sqrt(2 * 4,000), 1.1 %; the linearisation one of order 1/200.
    assert error == pytest.approx(means.std(), rel=0.06)
    assert error > 2 * math.sqrt(1 / counts.sum())  # far more than with targets as the sampling unit
