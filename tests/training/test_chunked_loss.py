"""The loss of a large vocabulary, in chunks, against that of all logits at once."""

import numpy as np
import pytest
import tensorflow as tf

import training.evaluation
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from training.config import TrainingConfig
from training.evaluation import (
    chunked_cross_entropy,
    is_loss_chunked,
    make_evaluator,
    summed_cross_entropy,
    summed_loss,
)
from training.step import make_gradient_function

VOCAB, BATCH, LENGTH, DIM = 53, 3, 7, 24


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of four positions, the last with three of padding."""
    monkeypatch.setattr(training.evaluation, "MANY_LOGITS", BATCH * LENGTH * VOCAB)
    for kind in ("FUSED_CHUNKS", "OTHER_CHUNKS"):
        monkeypatch.setattr(training.evaluation, kind, (BATCH * LENGTH * VOCAB, 4 * VOCAB))


@pytest.fixture
def model():
    sizes = {"dim": DIM, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "mlp_dim": 20}
    return TransformerLM(TransformerLMConfig(vocab_size=VOCAB, **sizes), dtype="float32")


def draw_tokens():
    return np.random.default_rng(0).integers(0, VOCAB, (2, BATCH, LENGTH)).astype(np.int32)


@pytest.mark.parametrize(
    ("dtype", "jit_compile", "label_smoothing"),
    [("float32", False, 0.1), ("float32", True, 0.0), ("bfloat16", False, 0.1)],
)
@pytest.mark.usefixtures("small_chunks")
def test_loss_and_gradients_equal_those_of_all_logits_at_once(dtype, jit_compile, label_smoothing):
    """Some targets are masked."""
    random, targets = np.random.default_rng(1), draw_tokens()[1]
    targets[random.random(targets.shape) < 0.3] = -1
    shapes = (BATCH, LENGTH, DIM), (VOCAB, DIM)
    features, embeddings = (tf.cast(random.normal(size=shape), dtype) for shape in shapes)

    def plain(features, embeddings, targets, **options):
        logits = tf.tensordot(features, embeddings, [[2], [1]])
        return summed_cross_entropy(tf.cast(logits, tf.float32), targets, **options)

    @tf.function(jit_compile=jit_compile)
    def loss_and_gradients(features, embeddings):
        results = []
        for function in (chunked_cross_entropy, plain):
            with tf.GradientTape() as tape:
                tape.watch([features, embeddings])
                loss = function(features, embeddings, targets, label_smoothing=label_smoothing) / 5
            results.append([loss, *tape.gradient(loss, [features, embeddings])])
        return results

    # float32; bfloat16 has 8 bits, and the chunks add up in another order
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for actual, expected in zip(*loss_and_gradients(features, embeddings), strict=True):
        actual, expected = (tf.cast(value, tf.float32).numpy() for value in (actual, expected))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * abs(expected).max())


def test_a_training_step_never_holds_all_logits(small_chunks, model, monkeypatch):
    # So that its operations are in the graph.
    monkeypatch.setattr(training.evaluation, "is_fused", lambda dtype: False)
    function = tf.function(make_gradient_function(model, TrainingConfig()))
    graph = function.get_concrete_function(*map(tf.constant, draw_tokens()), 0, 0, 5.0).graph
    sizes = {output.shape.num_elements() for op in graph.get_operations() for output in op.outputs}
    assert BATCH * LENGTH * VOCAB not in sizes


def test_a_batch_with_many_logits_is_evaluated_row_by_row(small_chunks, model):
    shapes, tokens = set(), draw_tokens()

    def measure(logits, targets):
        shapes.add(tuple(logits.shape))
        return summed_loss(logits, targets)

    evaluate = make_evaluator(model, measure, compile_mode="graph")
    together = summed_loss(model(tokens[0]), tokens[1])["validation_loss"] / tokens[1].size
    assert evaluate([tokens])["validation_loss"] == pytest.approx(float(together), rel=1e-5)  # float32
    assert shapes == {(1, LENGTH, VOCAB)}


def test_a_small_vocabulary_and_images_keep_all_logits(model):
    assert not is_loss_chunked(model, tf.zeros((8, 256), tf.int32))
    assert not is_loss_chunked(tf.keras.Sequential(), tf.zeros((8, 8, 8, 1)))
