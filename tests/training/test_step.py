"""One update of the weights, against other ways to compute the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.block import dropout
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from training.config import OptimizerConfig
from training.losses import summed_cross_entropy
from training.optimizer import make_optimizer
from training.step import make_train_step

BATCH, LENGTH, DIM, VOCAB = 4, 7, 5, 11
CONSTANT_RATE = OptimizerConfig(learning_rate=0.01, final_learning_rate_ratio=1.0, warmup_steps=0)


class Lookup(keras.Model):
    """Logits from an embedding that is not tied: its gradient is sparse, with a slice for each token."""

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


def make_transformer(*, dropout_rate=0.0, precision="float32"):
    keras.utils.set_random_seed(5)
    sizes = {"dim": 12, "num_layers": 1, "num_heads": 3, "num_kv_heads": 1, "mlp_dim": 20}
    config = TransformerLMConfig(vocab_size=VOCAB, context_length=LENGTH, dropout=dropout_rate, **sizes)
    return TransformerLM(config, dtype=precision)


def make_batch(seed=0):
    tokens = np.random.default_rng(seed).integers(VOCAB, size=(BATCH, LENGTH + 1), dtype=np.int32)
    return tf.constant(tokens[:, :-1]), tf.constant(tokens[:, 1:])


def make_step(
    model,
    optimizer=None,
    *,
    accumulation_steps=1,
    clip_norm=1e9,
    label_smoothing=0.0,
    seed=3,
    compile_mode="graph",
):
    optimizer = optimizer or make_optimizer(CONSTANT_RATE, model.trainable_variables, num_steps=100)
    step = make_train_step(
        model,
        optimizer,
        accumulation_steps=accumulation_steps,
        clip_norm=clip_norm,
        label_smoothing=label_smoothing,
        seed=seed,
        compile_mode=compile_mode,
    )
    return lambda number, inputs, targets: step(tf.constant(number), inputs, targets)


def after(model, steps, *, batch=None, **options):
    """Weights and the last result after the numbered steps."""
    step = make_step(model, **options)
    for number in steps:
        result = step(number, *(batch or make_batch(number)))
    return model.get_weights(), result


def assert_weights_close(actual, expected, *, atol):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assert_equal_arrays(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def differ(a, b):
    return any((x != y).any() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("accumulation_steps", [2, 4])
def test_micro_batches_make_the_update_of_one_large_batch(accumulation_steps):
    whole, whole_result = after(Lookup(), range(3))
    parts, parts_result = after(Lookup(), range(3), accumulation_steps=accumulation_steps)
    assert float(parts_result.loss) == pytest.approx(float(whole_result.loss), abs=1e-6)
    assert float(parts_result.gradient_norm) == pytest.approx(float(whole_result.gradient_norm), abs=1e-6)
    assert_weights_close(parts, whole, atol=1e-6)


def test_micro_batches_with_unequal_numbers_of_targets_make_the_update_of_one_large_batch():
    inputs, targets = make_batch()
    mask = np.ones((BATCH, LENGTH), bool)
    mask[0], mask[1, 2:] = False, False
    batch = inputs, tf.where(mask, targets, -1)
    whole, whole_result = after(Lookup(), [0], batch=batch)
    parts, parts_result = after(Lookup(), [0], batch=batch, accumulation_steps=4)
    assert float(parts_result.loss) == pytest.approx(float(whole_result.loss), abs=1e-6)
    assert_weights_close(parts, whole, atol=1e-6)


def test_xla_makes_the_updates_of_the_graph_with_micro_batches():
    graph, graph_result = after(make_transformer(), range(2), accumulation_steps=2)
    xla, xla_result = after(make_transformer(), range(2), accumulation_steps=2, compile_mode="xla")
    assert float(xla_result.loss) == pytest.approx(float(graph_result.loss), abs=1e-5)
    # XLA sums in another order; where a gradient is near 0, Adam makes its error one of the step, 0.01.
    assert_weights_close(xla, graph, atol=1e-4)


def test_mixed_bfloat16_trains_float32_weights_with_dropout_and_micro_batches():
    model = make_transformer(dropout_rate=0.2, precision="mixed_bfloat16")
    step = make_step(model, accumulation_steps=2)
    losses = [float(step(number, *make_batch()).loss) for number in range(30)]
    assert all(weight.dtype == np.float32 for weight in model.get_weights())
    assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.05)  # small initial weights: all alike
    assert losses[-1] < losses[0] - 0.2


def test_the_reported_loss_and_norm_are_those_before_the_update():
    model = OneHot()
    inputs, targets = make_batch()
    with tf.GradientTape() as tape:
        total, count = summed_cross_entropy(model(inputs), targets)
        loss = total / count
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in tape.gradient(loss, model.trainable_variables)))
    result = make_step(model, clip_norm=norm / 3)(0, inputs, targets)
    assert float(result.loss) == pytest.approx(float(loss), abs=1e-6)
    assert float(result.gradient_norm) == pytest.approx(float(norm), rel=1e-5)
    assert float(result.learning_rate) == pytest.approx(0.01)
    assert bool(result.finite)


def test_label_smoothing_spreads_a_share_of_each_target():
    model = OneHot()
    inputs, targets = make_batch()
    logits = model(inputs).numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    wanted = 0.9 * np.eye(VOCAB)[targets.numpy()] + 0.1 / VOCAB
    loss = -np.mean(np.sum(wanted * log_probabilities, axis=-1))
    result = make_step(model, label_smoothing=0.1)(0, inputs, targets)
    assert float(result.loss) == pytest.approx(loss, abs=1e-6)
    assert float(make_step(OneHot())(0, inputs, targets).loss) != pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("clip_norm", [1e9, 0.1])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_an_embedding_of_repeated_tokens_is_updated_as_its_one_hot_twin(accumulation_steps, clip_norm):
    inputs, targets = make_batch()
    options = {"accumulation_steps": accumulation_steps, "clip_norm": clip_norm}
    options["batch"] = inputs % 3, targets  # 3 tokens in 28 places
    lookup, lookup_result = after(Lookup(), range(3), **options)
    one_hot, one_hot_result = after(OneHot(), range(3), **options)
    assert float(lookup_result.gradient_norm) == pytest.approx(float(one_hot_result.gradient_norm), rel=1e-5)
    assert_weights_close(lookup, one_hot, atol=1e-6)


def test_the_gradient_is_clipped_by_its_global_norm():
    """With plain gradient descent of rate 1, the update is the clipped gradient."""
    model = Lookup()
    before = model.get_weights()
    optimizer = keras.optimizers.SGD(learning_rate=1.0)
    optimizer.build(model.trainable_variables)
    result = make_step(model, optimizer, clip_norm=0.01)(0, *make_batch())
    moved = [b - a for a, b in zip(before, model.get_weights(), strict=True)]
    assert float(result.gradient_norm) > 0.1
    # Differences of float32 weights near 1 have an error of 1e-7 each.
    assert np.sqrt(sum(np.sum(np.square(m)) for m in moved)) == pytest.approx(0.01, rel=1e-3)


def test_a_gradient_within_the_limit_is_not_clipped():
    limit, result = after(Lookup(), [0], clip_norm=100.0)
    no_limit, _ = after(Lookup(), [0], clip_norm=1e9)
    assert float(result.gradient_norm) < 100
    assert_weights_close(limit, no_limit, atol=1e-7)


@pytest.mark.parametrize("compile_mode", ["graph", "xla"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_changes_nothing(compile_mode, bad):
    model = Lookup()
    optimizer = make_optimizer(CONSTANT_RATE, model.trainable_variables, num_steps=100)
    step = make_step(model, optimizer, accumulation_steps=2, compile_mode=compile_mode)
    step(0, *make_batch())
    table, head = model.get_weights()
    table[int(make_batch()[0][0, 0])] = bad
    model.set_weights([table, head])
    slots = [variable.numpy() for variable in optimizer.variables]
    result = step(1, *make_batch())
    assert not bool(result.finite)
    assert_equal_arrays(model.get_weights(), [table, head])
    assert_equal_arrays([variable.numpy() for variable in optimizer.variables], slots)
    assert int(optimizer.iterations) == 1


def test_a_gradient_that_is_not_finite_under_a_finite_loss_changes_nothing():
    class Kink(Lookup):
        def call(self, tokens, training=False, seed=None):
            return super().call(tokens) + tf.sqrt(0.0 * self.head.kernel[0])  # infinitely steep at 0

    before = Kink().get_weights()
    weights, result = after(Kink(), [0])
    assert np.isfinite(float(result.loss))
    assert not bool(result.finite)
    assert_equal_arrays(weights, before)


@pytest.mark.parametrize("compile_mode", ["graph", "xla"])
def test_the_same_step_draws_the_same_dropout(compile_mode):
    options = {"accumulation_steps": 2, "compile_mode": compile_mode}
    first, _ = after(Lookup(dropout_rate=0.5), [4], **options)
    again, _ = after(Lookup(dropout_rate=0.5), [4], **options)
    assert_equal_arrays(first, again)


def test_another_step_or_seed_draws_another_dropout():
    batch = make_batch()
    first, _ = after(Lookup(dropout_rate=0.5), [4], batch=batch)
    other_step, _ = after(Lookup(dropout_rate=0.5), [5], batch=batch)
    other_seed, _ = after(Lookup(dropout_rate=0.5), [4], batch=batch, seed=2)
    assert differ(first, other_step)
    assert differ(first, other_seed)
    assert differ(other_step, other_seed)


def test_each_micro_batch_draws_another_dropout(capfd):
    class Telling(Lookup):
        def call(self, tokens, training=False, seed=None):
            if training:
                tf.print(seed)
            return super().call(tokens)

    after(Telling(), [4], accumulation_steps=4)
    seeds = capfd.readouterr().err.splitlines()
    assert len(seeds) == len(set(seeds)) == 4


def test_masked_targets_do_not_count():
    inputs, targets = make_batch()
    masked = tf.concat([targets[:, :3], tf.fill((BATCH, LENGTH - 3), -1)], axis=1)
    long, long_result = after(Lookup(), [0], batch=(inputs, masked))
    short, short_result = after(Lookup(), [0], batch=(inputs[:, :3], targets[:, :3]))
    assert float(long_result.loss) == pytest.approx(float(short_result.loss), abs=1e-6)
    assert_weights_close(long, short, atol=1e-6)


def test_a_batch_without_targets_has_no_loss():
    inputs, targets = make_batch()
    _, result = after(Lookup(), [0], batch=(inputs, tf.fill(targets.shape, -1)))
    assert (float(result.loss), float(result.gradient_norm)) == (0, 0)
    assert bool(result.finite)
