"""One update of the weights, against other ways to compute it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.block import dropout
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from training.config import OptimizerConfig, TrainingConfig
from training.evaluation import summed_cross_entropy
from training.optimizer import make_optimizer
from training.replicas import ONE_DEVICE
from training.step import make_train_step

BATCH, LENGTH, DIM, VOCAB = 4, 7, 5, 11
CONSTANT_RATE = {"learning_rate": 0.01, "final_learning_rate_ratio": 1.0, "warmup_steps": 0}


class Lookup(keras.Model):
    """Logits from an untied embedding, whose gradient is sparse, with one slice for each token."""

    def __init__(self, dropout_rate=0.0):
        super().__init__()
        generator = np.random.default_rng(1)
        self.dropout_rate = dropout_rate
        self.embedding = keras.layers.Embedding(VOCAB, DIM)
        self.head = keras.layers.Dense(VOCAB, use_bias=False)
        self.embedding.build()
        self(tf.zeros((1, 1), tf.int32))
        self.set_weights([generator.normal(size=(VOCAB, DIM)), generator.normal(size=(DIM, VOCAB))])

    def call(self, tokens, training=False, seed=None):
        return self.head(dropout(self.embed(tokens), self.dropout_rate, seed))

    def embed(self, tokens):
        return self.embedding(tokens)


class OneHot(Lookup):
    """The same function by a matmul, whose gradient is dense."""

    def embed(self, tokens):
        return tf.one_hot(tokens, VOCAB) @ tf.convert_to_tensor(self.embedding.embeddings)


class Classifier(keras.Model):
    """Two dense layers; Muon updates the matrix of the first, by its name."""

    def __init__(self):
        super().__init__()
        self.block = keras.layers.Dense(6, activation="relu", name="block_0")
        self.head = keras.layers.Dense(VOCAB, name="head")
        self(tf.zeros((1, DIM)))
        generator = np.random.default_rng(1)
        self.set_weights([generator.normal(size=weight.shape) for weight in self.weights])

    def call(self, x, training=False, seed=None):
        return self.head(self.block(x))


def make_examples(seed=0, *, last=0.0):
    """Batch for the classifier, with `last` added to its last row."""
    generator = np.random.default_rng(seed)
    inputs, targets = generator.normal(size=(BATCH, DIM)), generator.integers(VOCAB, size=BATCH)
    inputs[-1] += last
    return tf.constant(inputs, tf.float32), tf.constant(targets, tf.int32)


def make_transformer(*, dropout_rate=0.0, precision="float32"):
    keras.utils.set_random_seed(5)
    sizes = {"dim": 12, "num_layers": 1, "num_heads": 3, "num_kv_heads": 1, "mlp_dim": 20}
    config = TransformerLMConfig(vocab_size=VOCAB, context_length=LENGTH, dropout=dropout_rate, **sizes)
    return TransformerLM(config, dtype=precision)


def make_batch(seed=0):
    tokens = np.random.default_rng(seed).integers(VOCAB, size=(BATCH, LENGTH + 1), dtype=np.int32)
    return tf.constant(tokens[:, :-1]), tf.constant(tokens[:, 1:])


def make_step(model, optimizer="adamw", *, clip_norm=1e9, replicas=ONE_DEVICE, **options):
    if isinstance(optimizer, str):
        config = OptimizerConfig(name=optimizer, **CONSTANT_RATE)
        optimizer = make_optimizer(config, model.trainable_variables, num_steps=100)
    config = TrainingConfig(**{"seed": 3, "compile": "graph"} | options)
    step = make_train_step(model, optimizer, config, clip_norm=clip_norm, replicas=replicas)
    return lambda number, inputs, targets: step(tf.constant(number), inputs, targets)


def train(model, steps, *, batch=None, **options):
    """Weights and last result after the numbered steps."""
    step = make_step(model, **options)
    for number in steps:
        result = step(number, *(batch or make_batch(number)))
    return model.get_weights(), result


def assert_weights_close(actual, expected, *, atol):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def differ(a, b):
    return any((x != y).any() for x, y in zip(a, b, strict=True))


def test_micro_batches_make_the_update_of_one_batch():
    """All targets of the first example are masked, and most of the second one."""
    mask = np.ones((BATCH, LENGTH), bool)
    mask[0], mask[1, 2:] = False, False
    inputs, targets = make_batch()
    batch = inputs, tf.where(mask, targets, -1)
    expected, expected_result = train(Lookup(), range(3), batch=batch)
    for accumulation_steps in (2, 4):
        actual, result = train(Lookup(), range(3), batch=batch, accumulation_steps=accumulation_steps)
        assert float(result.loss) == pytest.approx(float(expected_result.loss), abs=1e-6)
        assert float(result.gradient_norm) == pytest.approx(float(expected_result.gradient_norm), abs=1e-6)
        assert_weights_close(actual, expected, atol=1e-6)


@pytest.mark.slow
def test_xla_makes_the_updates_of_the_graph():
    graph, graph_result = train(make_transformer(), range(2), accumulation_steps=2)
    xla, xla_result = train(make_transformer(), range(2), accumulation_steps=2, compile="xla")
    assert float(xla_result.loss) == pytest.approx(float(graph_result.loss), abs=1e-5)
    # XLA sums in another order; where a gradient is near 0, Adam turns its error into one of the step, 0.01.
    assert_weights_close(xla, graph, atol=1e-4)


def test_mixed_bfloat16_trains_float32_weights():
    """The model has dropout, and the batch two micro-batches."""
    model = make_transformer(dropout_rate=0.2, precision="mixed_bfloat16")
    step = make_step(model, accumulation_steps=2)
    losses = [float(step(number, *make_batch()).loss) for number in range(30)]
    assert all(weight.dtype == np.float32 for weight in model.get_weights())
    assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.05)  # small initial weights: uniform predictions
    assert losses[-1] < losses[0] - 0.2


def test_the_loss_and_norm_are_those_before_the_update_and_the_gradient_is_clipped():
    """The update of gradient descent with a rate of 1 is the clipped gradient."""
    model = OneHot()
    inputs, targets = make_batch()
    with tf.GradientTape() as tape:
        loss = summed_cross_entropy(model(inputs), targets) / (BATCH * LENGTH)
    gradients = [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)]
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))
    for limit in (norm / 3, 2 * norm):
        model = OneHot()
        before = model.get_weights()
        optimizer = keras.optimizers.SGD(learning_rate=1.0)
        optimizer.build(model.trainable_variables)
        result = make_step(model, optimizer, clip_norm=limit)(0, inputs, targets)
        assert float(result.loss) == pytest.approx(float(loss), abs=1e-6)
        assert float(result.gradient_norm) == pytest.approx(float(norm), rel=1e-5)
        assert float(result.learning_rate) == 1
        assert bool(result.finite)
        expected = [b - g * min(1, limit / norm) for b, g in zip(before, gradients, strict=True)]
        assert_weights_close(model.get_weights(), expected, atol=1e-6)


def test_label_smoothing_spreads_a_share_of_each_target():
    model = OneHot()
    inputs, targets = make_batch()
    logits = model(inputs).numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    hard = np.eye(VOCAB)[targets.numpy()]  # (batch, length, classes)
    shares = hard, 0.9 * hard + 0.1 / VOCAB
    hard_loss, loss = (-np.mean(np.sum(share * log_probabilities, axis=-1)) for share in shares)
    assert abs(hard_loss - loss) > 1e-3
    result = make_step(model, label_smoothing=0.1)(0, inputs, targets)
    assert float(result.loss) == pytest.approx(loss, abs=1e-6)


def test_an_embedding_of_repeated_tokens_is_updated_as_a_one_hot_matmul():
    inputs, targets = make_batch()
    options = {"accumulation_steps": 2, "clip_norm": 0.1}
    options["batch"] = inputs % 3, targets  # 3 tokens in 28 places
    lookup, lookup_result = train(Lookup(), range(3), **options)
    one_hot, one_hot_result = train(OneHot(), range(3), **options)
    assert float(lookup_result.gradient_norm) == pytest.approx(float(one_hot_result.gradient_norm), rel=1e-5)
    assert_weights_close(lookup, one_hot, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "compile_mode", "bad"),
    [("adamw", "graph", np.inf), ("adamw", "xla", np.nan), ("muon", "graph", np.nan)],
)
def test_a_loss_that_is_not_finite_changes_nothing(optimizer, compile_mode, bad):
    model = Classifier()
    config = OptimizerConfig(name=optimizer, **CONSTANT_RATE)
    optimizer = make_optimizer(config, model.trainable_variables, num_steps=100)
    step = make_step(model, optimizer, accumulation_steps=2, compile=compile_mode)
    assert bool(step(0, *make_examples()).finite)
    variables = [*model.variables, *optimizer.variables]
    before = [variable.numpy() for variable in variables]
    assert not bool(step(1, *make_examples(last=bad)).finite)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert int(optimizer.iterations) == 1


def test_a_gradient_that_is_not_finite_under_a_finite_loss_changes_nothing():
    class Kink(Lookup):
        def call(self, tokens, training=False, seed=None):
            return super().call(tokens) + tf.sqrt(0.0 * self.head.kernel[0])  # infinite slope at 0

    before = Kink().get_weights()
    weights, result = train(Kink(), [0])
    assert np.isfinite(float(result.loss))
    assert not bool(result.finite)
    assert not differ(weights, before)


def test_dropout_depends_on_the_step_and_the_seed_alone():
    model = Lookup(dropout_rate=0.5)
    initial = model.get_weights()
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    step, other_step = (make_step(model, optimizer, seed=seed, accumulation_steps=2) for seed in (3, 2))

    def weights_after(step, number):
        model.set_weights(initial)
        step(number, *make_batch())
        return model.get_weights()

    first = weights_after(step, 4)
    assert not differ(weights_after(step, 4), first)
    assert differ(weights_after(step, 5), first)
    assert differ(weights_after(other_step, 4), first)
