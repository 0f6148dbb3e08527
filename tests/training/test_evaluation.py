"""Evaluation over batches with different numbers of targets."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.evaluation import make_evaluator, summed_loss, summed_loss_and_accuracy

VOCAB = 5


class Table(keras.Model):
    """Logits that depend on the token only."""

    def __init__(self, logits):
        super().__init__()
        self.table = tf.constant(logits, tf.float32)

    def call(self, tokens, training=False):
        return tf.gather(self.table, tokens) + (1e6 if training else 0)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(VOCAB, VOCAB)) * 3


def masked_batches(counts):
    """Batches of 2 x 3 with these numbers of targets; the other targets are masked."""
    generator = np.random.default_rng(1)
    for count in counts:
        inputs, targets = generator.integers(VOCAB, size=(2, 2, 3), dtype=np.int32)
        targets.reshape(-1)[count:] = -1
        yield inputs, targets


@pytest.mark.parametrize("compile_mode", ["graph", "xla"])
def test_means_are_over_the_targets_of_all_batches(logits, compile_mode):
    batches = list(masked_batches([6, 1, 0, 4]))
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = [
        -log_probabilities[token, target]
        for inputs, targets in batches
        for token, target in zip(inputs.flat, targets.flat, strict=True)
        if target >= 0
    ]
    assert len(losses) == 11
    evaluate = make_evaluator(Table(logits), summed_loss, compile_mode=compile_mode)
    for _ in range(2):
        assert evaluate(batches) == {"validation_loss": pytest.approx(np.mean(losses), abs=1e-6)}
    mean_of_means = np.mean([np.mean(losses[:6]), losses[6], np.mean(losses[7:])])
    assert abs(mean_of_means - np.mean(losses)) > 0.01


def test_batches_without_targets_are_an_error(logits):
    with pytest.raises(ValueError, match="contain no targets"):
        make_evaluator(Table(logits), summed_loss, compile_mode="graph")(masked_batches([0, 0]))


@pytest.mark.parametrize("compile_mode", ["graph", "xla"])
def test_accuracy_counts_targets_among_the_top_classes(compile_mode):
    logits = np.random.default_rng(0).normal(size=(7, 7))
    inputs = np.array([[0, 1, 2, 3], [4, 5, 6, 0]], np.int32)
    targets = np.array([[2, 0, -1, 3], [6, 1, -1, 5]], np.int32)
    ranks = [
        list(np.argsort(-logits[token])).index(target)
        for token, target in zip(inputs.flat, targets.flat, strict=True)
        if target >= 0
    ]
    evaluate = make_evaluator(Table(logits), summed_loss_and_accuracy, compile_mode=compile_mode)
    means = evaluate([(inputs, targets)])
    assert means["accuracy"] == pytest.approx(np.mean(np.array(ranks) == 0))
    assert means["top_5_accuracy"] == pytest.approx(np.mean(np.array(ranks) < 5))
    assert 0 < means["accuracy"] < means["top_5_accuracy"] < 1


def test_equal_logits_are_not_all_correct():
    evaluate = make_evaluator(Table(np.zeros((3, 4))), summed_loss_and_accuracy, compile_mode="graph")
    means = evaluate([(np.array([[0, 1, 2, 0]], np.int32), np.array([[0, 1, 2, 3]], np.int32))])
    assert means["accuracy"] == 0.25
    assert "top_5_accuracy" not in means  # four classes
