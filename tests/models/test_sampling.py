from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from models.sampling import FINISHED, Choice, Row, Sampler, SamplingOptions, choose
from models.transformer import TransformerLM

CONTEXT = 9
GREEDY = SamplingOptions(temperature=0)
WARM = SamplingOptions(temperature=1.5, seed=5)
PROMPTS = [[4], [30, 2, 2, 17, 9, 1, 8, 8, 5], [11, 3, 20], [7, 7, 7, 7, 7, 7, 1]]


@pytest.fixture(scope="module", params=[10_000, 0], ids=["traced", "compiled"])
def sampler(model_of, request):
    """Sampler of a model whose logits depend on where the window starts."""
    model = model_of(context_length=CONTEXT, num_layers=1, num_kv_heads=3, position="learned")
    return Sampler(model, compile_after=request.param)


def generated(sampler, prompt, num_tokens, options):
    """The tokens that continue one prompt."""
    return [int(token) for (token,) in sampler.generate([prompt], num_tokens, options)]


def reference_greedy(model, prompt, num_tokens):
    """Greedy tokens by full passes: past the context, its last `context_length // 2` tokens remain."""
    window, tokens = list(prompt), []
    for _ in range(num_tokens):
        tokens.append(int(np.argmax(model(tf.constant([window]))[0, -1])))
        window.append(tokens[-1])
        if len(window) > CONTEXT:
            window = window[-(CONTEXT // 2) :]
    return tokens


def test_greedy_equals_full_passes_beyond_the_context(sampler):
    # Prompts of nine and three tokens slide at different steps.
    ours = [generated(sampler, prompt, 15, GREEDY) for prompt in PROMPTS[1:3]]
    low = [generated(sampler, prompt, 15, SamplingOptions(temperature=1e-320)) for prompt in PROMPTS[1:3]]
    assert ours == low == [reference_greedy(sampler.model, prompt, 15) for prompt in PROMPTS[1:3]]
    assert len(set().union(*ours)) > 4  # not the same token throughout


@pytest.mark.slow
def test_a_mixed_bfloat16_model_generates_in_float32(sampler):
    model = TransformerLM(sampler.model.config, dtype="mixed_bfloat16")
    ours = Sampler(model)
    model.set_weights(sampler.model.get_weights())  # changed between two samples, as in training
    assert generated(ours, PROMPTS[2], 12, WARM) == generated(sampler, PROMPTS[2], 12, WARM)


@pytest.mark.parametrize(("options", "overflow"), [(GREEDY, "stop"), (WARM, "slide")], ids=str)
def test_a_batch_equals_each_prompt_alone(sampler, options, overflow):
    stop_token = generated(sampler, PROMPTS[2], 4, options)[-1]  # one row stops early
    options = replace(options, overflow=overflow, stop_tokens=(stop_token,))
    together = np.array(list(sampler.generate(PROMPTS, 23, options)))
    assert together.dtype.kind == "i"
    lengths = set()
    for row, prompt in enumerate(PROMPTS):
        alone = [token for token in generated(sampler, prompt, 23, options) if token != FINISHED]
        assert list(together[: len(alone), row]) == alone
        assert np.all(together[len(alone) :, row] == FINISHED)
        lengths.add(len(alone))
    assert len(lengths) > 1


def test_noise_is_keyed_by_seed_prompt_and_token_index():
    def noise(seed, prompt, index):
        row = Row(prompt, seed)
        row.tokens += [1] * index
        return tuple(row.noise(5))

    keys = [(0, [1, 23], 0), (1, [1, 23], 0), (0, [12, 3], 0), (0, [1, 2, 3], 0), (0, [1, 23], 1)]
    draws = [noise(*key) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [noise(*key) for key in keys]
    assert noise(0, [1, 23], 1) == tuple(Row([1, 23], 0).noise(5, ahead=1))


def chosen(logits, options, noise=None):
    """The token of one row."""
    logits = np.array([logits], np.float32)
    noise = np.zeros((1, 1)) if noise is None else np.array([noise])
    return int(choose(logits, Choice.from_options(options, logits.size), noise)[0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    logits, draws = np.array([1.0, -0.5, 0.3, 2.0, -2.0], np.float32), 8_000
    options = SamplingOptions(temperature=temperature)
    noise = [Row([3], seed).noise(5, ahead) for seed in range(draws // 100) for ahead in range(100)]
    tokens = choose(np.tile(logits, (draws, 1)), Choice.from_options(options, 5), np.array(noise))
    counts = np.bincount(tokens, minlength=5)
    expected = draws * np.exp(logits / temperature) / np.sum(np.exp(logits / temperature))
    chi_square = np.sum((counts - expected) ** 2 / expected)
    assert chi_square < 23.5  # 4 degrees of freedom: exceeded once in 10,000


def candidates(logits, **options):
    """Tokens that some noise makes the choice."""
    return {chosen(logits, SamplingOptions(**options), 1e6 * row) for row in np.eye(len(logits))}


PROBABILITIES = np.log([0.1, 0.4, 0.2, 0.3])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.71}, {1, 2, 3}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        ({"top_k": 2, "top_p": 0.5}, {1}),  # 0.4 of 0.7 is enough
        ({"top_k": 2, "top_p": 0.6}, {1, 3}),
        ({"temperature": 0.25, "top_p": 0.7}, {1}),  # 0.4^4 : 0.3^4 : 0.2^4 : 0.1^4
    ],
)
def test_top_k_and_top_p_keep_the_most_likely(options, expected):
    assert candidates(PROBABILITIES, **options) == expected


def test_ties_keep_no_more_candidates_than_requested():
    assert candidates([0.0, 2.0, 1.0, 1.0, 1.0], top_k=2) == {1, 2}
    assert candidates([1.0, 1.0, 1.0, 1.0], top_p=0.5) == {0, 1}
    assert candidates([1.0, 1.0, 1.0], top_k=1) == {0}


def test_a_stop_token_ends_a_row_and_is_not_part_of_it(sampler):
    free = generated(sampler, PROMPTS[2], 12, WARM)
    stop = free[3]  # within one call of the loop
    other = next(token for token in range(256) if token not in free)
    for stop_tokens in ((stop,), (other, stop)):
        options = SamplingOptions(temperature=1.5, seed=5, stop_tokens=stop_tokens)
        assert generated(sampler, PROMPTS[2], 12, options) == free[: free.index(stop)] + [FINISHED]


def test_overflow_stop_ends_a_row_one_token_after_the_context(sampler):
    stopping = SamplingOptions(temperature=0, overflow="stop")
    for prompt in PROMPTS:
        expected = generated(sampler, prompt, 12, GREEDY)[: CONTEXT + 1 - len(prompt)]
        assert generated(sampler, prompt, 12, stopping) == expected


def test_many_tokens_are_generated_by_the_compiled_loop(sampler):
    ours = Sampler(sampler.model, compile_after=4)
    assert generated(ours, PROMPTS[2], 12, WARM) == generated(sampler, PROMPTS[2], 12, WARM)
    assert ours._next_tokens.experimental_get_tracing_count() == 1


def test_one_trace_serves_every_batch_and_chunk(sampler):
    for prompts in (PROMPTS, PROMPTS[3:]):
        list(sampler.generate(prompts, 12, WARM))
    assert sampler._next_token.experimental_get_tracing_count() == 1
    assert sampler._next_tokens.experimental_get_tracing_count() <= 1


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ([], "there is no prompt; give at least one"),
        ([[3], []], "a prompt has 0 tokens, but must have 1 to 9"),
        ([[3], [1] * 10], "a prompt has 10 tokens, but must have 1 to 9"),
        ([[3], [36, 37]], "a prompt has a token outside the vocabulary of 37"),
        ([[-1]], "a prompt has a token outside the vocabulary of 37"),
    ],
)
def test_an_invalid_prompt_is_an_error_before_generation(sampler, prompts, problem):
    with pytest.raises(ValueError, match=problem):
        sampler.generate(prompts, 5, GREEDY)
