import functools

import numpy as np
import pytest
import tensorflow as tf

from data.image_files import fit_images
from models.exported import fit_pixels, text_module
from models.sampling import FINISHED, Sampler, SamplingOptions
from rope import plain_operations

CONTEXT = 9
PROMPTS = ["d", "ef 'é'", "def foo(x)", "\x01\x02"]  # ten bytes exceed the context


@pytest.fixture(scope="module")
def model(model_of):
    """A model of bytes whose logits depend on where the window starts, and on all tokens before it."""
    options = {"position": "learned", "learned_rotations": "cumulative"}
    return model_of(vocab_size=256, context_length=CONTEXT, num_layers=1, num_kv_heads=3, **options)


@pytest.fixture(scope="module")
def expected(model):
    """Greedy continuations of the prompts by 25 bytes."""
    options, sampler = SamplingOptions(temperature=0), Sampler(model)
    prompts = [list(prompt.encode()[-CONTEXT:]) for prompt in PROMPTS]
    columns = list(sampler.generate(prompts, 25, options))
    return [bytes(int(column[row]) for column in columns) for row in range(len(PROMPTS))]


@functools.cache
def module_of(model, tokens_are_bytes, stop_tokens):
    return text_module(model, tokens_are_bytes=tokens_are_bytes, stop_tokens=stop_tokens)


def generate(model, *arguments, tokens_are_bytes=True, stop_tokens=()):
    with plain_operations():
        (result,) = module_of(model, tokens_are_bytes, stop_tokens).generate(*arguments).values()
    return result.numpy()


def test_a_batch_is_continued_beyond_the_context_as_by_the_sampler(model, expected):
    texts = generate(model, PROMPTS, 25, 0.0, 0)
    assert texts.tolist() == [prompt.encode() + text for prompt, text in zip(PROMPTS, expected, strict=True)]
    assert len(set(texts[0])) > 4  # not the same byte throughout


def test_a_row_ends_before_the_stop_token(model, expected):
    stop = expected[0][3]
    texts = generate(model, PROMPTS, 25, 0.0, 0, stop_tokens=(stop,))
    for prompt, text, continued in zip(PROMPTS, texts, expected, strict=True):
        assert text == prompt.encode() + continued.partition(bytes([stop]))[0]


def test_samples_have_the_probabilities_of_the_softmax(model):
    prompts = ["ab"] * 4_000
    texts = generate(model, prompts, 1, 2.0, 7)
    frequencies = np.bincount([text[2] for text in texts if len(text) == 3], minlength=256) / len(texts)
    probabilities = tf.nn.softmax(model(tf.constant([[97, 98]]))[0, -1] / 2).numpy()
    # four standard deviations of a frequency
    assert (abs(frequencies - probabilities) < 4 * np.sqrt(probabilities / len(texts)) + 1e-3).all()
    assert (generate(model, prompts, 1, 2.0, 7) == texts).all()
    assert (generate(model, prompts, 1, 2.0, 8) != texts).any()


def test_tokens_that_are_not_bytes_are_continued_also_of_a_vocabulary_of_256(model):
    prompts = expected = np.array([[3, 1, 4], [1, 5, 9]], np.int32)
    for _ in range(6):
        chosen = np.argmax(model(expected)[:, -1], axis=-1)  # (2,)
        expected = np.concatenate([expected, chosen[:, np.newaxis].astype(np.int32)], axis=1)
    np.testing.assert_array_equal(generate(model, prompts, 6, 0.0, 0, tokens_are_bytes=False), expected)
    stop = expected[0, 4]
    ended = generate(model, prompts[:1], 6, 0.0, 0, tokens_are_bytes=False, stop_tokens=(stop,))[0]
    length = 3 + expected[0, 3:].tolist().index(stop)
    np.testing.assert_array_equal(ended, [*expected[0, :length], *[FINISHED] * (9 - length)])


def test_an_empty_prompt_and_a_negative_temperature_are_refused(model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="temperature must be at least 0"):
        generate(model, ["a"], 5, -0.5, 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a prompt is empty"):
        generate(model, ["a", ""], 5, 0.0, 0)


@pytest.mark.parametrize("size", [(6, 7), (7, 9), (30, 31), (5, 50), (27, 32)])
def test_images_are_fitted_as_in_training(size):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    fitted = fit_pixels(tf.cast(images, tf.float32), (6, 7)).numpy()
    np.testing.assert_array_equal(fitted, fit_images(images, (6, 7)))


def test_halves_are_rounded_up():
    images = np.array([[1, 2], [3, 4]], np.uint8).reshape(1, 2, 2, 1)  # mean 2.5
    assert fit_images(images, (1, 1)).item() == fit_pixels(tf.cast(images, tf.float32), (1, 1)).numpy() == 3
