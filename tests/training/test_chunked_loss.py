import numpy as np
import pytest
import tensorflow as tf

import training.evaluation
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from tests.models.reference import relative_difference
from training.config import TrainingConfig
from training.evaluation import make_evaluator, summed_loss
from training.step import make_gradient_function

VOCAB, BATCH, LENGTH = 53, 3, 7


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of four positions, the last with three of padding."""
    monkeypatch.setattr(training.evaluation, "CHUNKED_LOGITS", BATCH * LENGTH * VOCAB)
    monkeypatch.setattr(training.evaluation, "LOGITS_IN_CHUNK", 4 * VOCAB)


def language_model(dtype, *, tied):
    sizes = {"dim": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "mlp_dim": 20}
    model = TransformerLM(TransformerLMConfig(vocab_size=VOCAB, tied_embeddings=tied, **sizes), dtype=dtype)
    for number, variable in enumerate(model.trainable_variables):
        variable.assign(0.3 * np.random.default_rng(number).normal(size=variable.shape))
    return model


def gradients_of(model, *, compile_mode="graph", **options):
    """Loss, and gradient of each weight; some targets are masked."""
    random = np.random.default_rng(0)
    inputs, targets = random.integers(0, VOCAB, (2, BATCH, LENGTH)).astype(np.int32)
    targets[random.random(targets.shape) < 0.3] = -1
    function = make_gradient_function(model, TrainingConfig(**options))
    compiled = tf.function(lambda *batch: function(*batch, 0, 0, 5.0), jit_compile=compile_mode == "xla")
    concrete = compiled.get_concrete_function(tf.constant(inputs), tf.constant(targets))
    loss, gradients = compiled(tf.constant(inputs), tf.constant(targets))
    return loss, [gradient.numpy() for gradient in gradients], concrete.graph


@pytest.mark.parametrize(
    ("tied", "dtype", "compile_mode"),
    [(True, "float32", "graph"), (False, "float32", "xla"), (True, "mixed_bfloat16", "graph")],
)
def test_loss_and_gradients_equal_those_of_all_logits_at_once(small_chunks, tied, dtype, compile_mode):
    model = language_model(dtype, tied=tied)
    options = {"label_smoothing": 0.1 if tied else 0.0, "compile_mode": compile_mode}
    loss, gradients, graph = gradients_of(model, **options)
    training.evaluation.CHUNKED_LOGITS += 1
    expected_loss, expected, plain_graph = gradients_of(model, **options)
    # float32; bfloat16 has 8 bits, and the chunks add up in another order
    tolerance = 1e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    for variable, actual, wanted in zip(model.trainable_variables, gradients, expected, strict=True):
        assert relative_difference(actual, wanted) < 10 * tolerance, variable.path
    # All logits at once are a tensor of the plain loss alone.
    assert has_all_logits(plain_graph) and not has_all_logits(graph)


def test_a_batch_with_many_logits_is_evaluated_row_by_row(small_chunks):
    model, shapes = language_model("float32", tied=True), set()

    def measure(logits, targets):
        shapes.add(tuple(logits.shape))
        return summed_loss(logits, targets)

    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, BATCH, LENGTH)).astype(np.int32)
    evaluate = make_evaluator(model, measure, compile_mode="graph")
    together = summed_loss(model(tokens[0]), tokens[1])["validation_loss"] / tokens[1].size
    assert evaluate([tokens])["validation_loss"] == pytest.approx(float(together), rel=1e-5)  # float32
    assert shapes == {(1, LENGTH, VOCAB)}


def has_all_logits(graph):
    count = BATCH * LENGTH * VOCAB
    return any(out.shape.num_elements() == count for op in graph.get_operations() for out in op.outputs)


def test_a_small_vocabulary_and_images_keep_all_logits():
    model, tokens = language_model("float32", tied=True), tf.zeros((8, 256), tf.int32)
    assert not training.evaluation.is_chunked(model, tokens)
    assert not training.evaluation.is_chunked(tf.keras.Sequential(), tf.zeros((8, 8, 8, 1)))
