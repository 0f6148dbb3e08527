import math

import numpy as np
import pytest

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from runs.evaluate_windows import make_window_evaluator, mean_over_documents

SIZES = {"vocab_size": 19, "dim": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "mlp_dim": 12}


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


@pytest.fixture(scope="module")
def model():
    model = TransformerLM(TransformerLMConfig(**SIZES, context_length=12))
    for number, weight in enumerate(model.weights):
        values = np.random.default_rng(number).normal(size=weight.shape)
        weight.assign(values if "kernel" not in weight.path else values * weight.shape[0] ** -0.5)
    return model


def test_each_loss_is_that_of_one_target(model):
    draw = np.random.default_rng(0)
    inputs = draw.integers(19, size=(3, 7)).astype(np.int32)
    targets = draw.integers(19, size=(3, 4)).astype(np.int32)
    targets[1, :2] = -1
    losses = make_window_evaluator(model, compile_mode="xla")(inputs, targets).numpy()
    assert losses.shape == (3, 4)
    for row, column in np.ndindex(3, 4):
        logits = model(inputs[row : row + 1, : 4 + column]).numpy()[0, -1].astype(float)
        expected = np.log(np.exp(logits).sum()) - logits[targets[row, column]]
        if targets[row, column] < 0:
            expected = 0
        assert losses[row, column] == pytest.approx(expected, abs=2e-5)  # float32


def test_attention_block_is_passed_to_the_model(model):
    inputs = np.random.default_rng(0).integers(19, size=(2, 9)).astype(np.int32)
    full, blockwise, wide = (
        make_window_evaluator(model, compile_mode="graph", attention_block=block)(inputs, inputs[:, :2])
        for block in (None, 2, 9)
    )
    np.testing.assert_allclose(wide, full, atol=1e-5)  # float32
    assert np.all(abs(blockwise - full) > 1e-4)
