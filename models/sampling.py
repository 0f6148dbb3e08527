"""Sampling from a language model with a cache of keys and values.

Shape words: batch, length, vocab_size; count is the number of tokens that one call generates.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tensorflow as tf
from pydantic import Field

from models.transformer import Cache, TransformerLM
from system.validation import Options

FINISHED = -1
# Maximum number of tokens that one call of the compiled loop generates, so that text can be streamed.
TOKENS_PER_CALL = 16
# A cache has a multiple of this many columns, or the whole context: every token reads all of them.
CACHE_COLUMNS = 256


class SamplingOptions(Options):
    """Options for the choice of the next token.

    The noise of a row is keyed by (seed, prompt, token index) and does not depend on the rest of the batch,
    except that the next rows with the same prompt have seed + 1, seed + 2 and on. `slide` continues a row
    that exceeds the context from its last `context_length // 2` tokens, at least one; `stop` ends it.
    """

    temperature: Annotated[float, Field(ge=0)] = 1.0  # divides the logits; 0 takes the most likely token
    top_k: Annotated[int, Field(ge=1)] | None = None  # number of most likely tokens to choose from
    # The most likely tokens that together reach this probability (Holtzman et al. 2019, arXiv 1904.09751).
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    overflow: Literal["slide", "stop"] = "slide"
    stop_tokens: tuple[int, ...] = ()  # they end a row, and are not part of it

    @property
    def is_greedy(self) -> bool:
        """Whether the temperature is 0, or so low that the logits divided by it would overflow."""
        return self.temperature < np.finfo(np.float32).tiny


class Row:
    """One sequence of a batch: its tokens, and the start of the window that the model reads."""

    def __init__(self, prompt: Sequence[int], seed: int):
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self.window_start = 0
        self.finished = False
        digest = hashlib.sha256(f"{seed}:{','.join(map(str, self.tokens))}".encode()).digest()
        self.noise_key = np.frombuffer(digest[:16], np.uint64)

    @property
    def window(self) -> list[int]:
        return self.tokens[self.window_start :]

    def noise(self, size: int, ahead: int = 0) -> np.ndarray:
        """(size,) Gumbel noise for the next token, or for the token `ahead` positions after it."""
        index = len(self.tokens) - self.prompt_length + ahead
        generator = np.random.Generator(np.random.Philox(key=self.noise_key, counter=[0, 0, 0, index]))
        return generator.gumbel(size=size)

    def append(self, token: int, *, capacity: int, overflow: str) -> None:
        """Adds a token; a window longer than `capacity` slides or ends the row."""
        if self.finished or token == FINISHED:
            self.finished = True
            return
        self.tokens.append(token)
        if len(self.window) > capacity:
            if overflow == "stop":
                self.finished = True
            else:
                self.window_start = len(self.tokens) - max(1, capacity // 2)


class Sampler:
    """Generates text from a model: the prompt is read in one pass, and the next tokens one by one.

    The computation is float32: another compute dtype would cast each weight at each token.

    Args:
        model: a `TransformerLM`; each call of `generate` reads its current weights.
        vocab_size: number of tokens to choose from, if the vocabulary of the model is padded with others.
        compile_after: number of tokens, in all calls, from which on XLA compiles a loop of up to
            `TOKENS_PER_CALL` tokens for each batch size. Compiling takes as long as about this many without.
    """

    def __init__(self, model: TransformerLM, *, vocab_size: int | None = None, compile_after: int = 800):
        self.model = model
        self.vocab_size = vocab_size or model.config.vocab_size
        self.capacity = model.config.context_length
        self.compile_after, self._num_requested = compile_after, 0
        self._float32 = model if model.compute_dtype == "float32" else type(model)(model.config)
        cache, finished = self._float32.cache_spec(None), tf.TensorSpec((None,), tf.bool)
        scalars = (tf.TensorSpec((), dtype) for dtype in (tf.float64, tf.int32, tf.float64))
        choice = Choice(*scalars, stop_tokens=tf.TensorSpec((None,), tf.int32))
        prompt, noise = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None), tf.float64)
        signature = [prompt, cache, finished, noise, choice]
        self._next_token = tf.function(self._step, signature, autograph=False)
        last, count = tf.TensorSpec((None, 1), tf.int32), tf.TensorSpec((), tf.int32)
        noise = tf.TensorSpec((TOKENS_PER_CALL, None, None), tf.float64)
        signature = [last, cache, finished, noise, choice, count]
        self._next_tokens = tf.function(self._loop, signature, autograph=False, jit_compile=True)

    def generate(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, options: SamplingOptions
    ) -> Iterator[np.ndarray]:
        """Continues a batch of prompts, one token of each row at a time.

        Args:
            prompts: token sequences, each of 1 to `context_length` tokens; lengths may differ.
            num_tokens: number of tokens to add to each.
            options: see `SamplingOptions`.

        Yields:
            (batch,) int32 next tokens; `FINISHED` for a row that has ended.

        Raises:
            ValueError: if there is no prompt, or a prompt has too few or too many tokens, or one outside the
                vocabulary.
        """
        if not prompts:
            raise ValueError("there is no prompt; give at least one.")
        prompts = [list(map(int, prompt)) for prompt in prompts]
        rows = [Row(prompt, options.seed + prompts[:i].count(prompt)) for i, prompt in enumerate(prompts)]
        for row in rows:
            if not 1 <= (count := len(row.tokens)) <= self.capacity:
                raise ValueError(f"a prompt has {count} tokens, but must have 1 to {self.capacity}.")
            if not all(0 <= token < self.vocab_size for token in row.tokens):
                raise ValueError(f"a prompt has a token outside the vocabulary of {self.vocab_size}.")
        self._num_requested += num_tokens
        return self._generate(rows, num_tokens, options, in_loop=self._num_requested > self.compile_after)

    def _generate(self, rows, num_tokens, options, *, in_loop):
        if self._float32 is not self.model:
            for ours, theirs in zip(self._float32.weights, self.model.weights, strict=True):
                ours.assign(theirs)
        choice, cache = Choice.from_options(options, self.vocab_size), None
        while num_tokens > 0:
            finished = tf.constant([row.finished for row in rows])
            if cache is None or int(cache[0].start) == self.capacity:
                inputs, cache = self._pad_windows(rows, num_tokens)  # (batch, length)
            else:
                inputs = tf.constant([row.tokens[-1:] for row in rows], tf.int32)  # (batch, 1)
            if not in_loop or inputs.shape[1] > 1:
                noise = self._noise(rows, 1, options)[0]  # (batch, vocab_size)
                tokens, _, cache = self._next_token(inputs, cache, finished, noise, choice)
                tokens = tokens[tf.newaxis]  # (1, batch)
            else:
                noise = self._noise(rows, TOKENS_PER_CALL, options)
                count = min(TOKENS_PER_CALL, num_tokens, self.capacity - int(cache[0].start))
                tokens, cache = self._next_tokens(inputs, cache, finished, noise, choice, tf.constant(count))
                tokens = tokens[:count]  # (count, batch)
            for step in tokens.numpy():
                for row, token in zip(rows, step, strict=True):
                    row.append(int(token), capacity=self.capacity, overflow=options.overflow)
                num_tokens -= 1
                yield step
                if all(row.finished for row in rows):
                    return

    def _pad_windows(self, rows: list[Row], num_tokens: int) -> tuple[tf.Tensor, Cache]:
        """(batch, length) windows, padded on the left, and an empty cache with room for more tokens."""
        # The output of a finished row is ignored, so that one token suffices.
        windows = [row.window[-1:] if row.finished else row.window for row in rows]
        width = max(map(len, windows))
        padding = [width - len(window) for window in windows]
        tokens = [[0] * count + window for count, window in zip(padding, windows, strict=True)]
        capacity = min(self.capacity, CACHE_COLUMNS * math.ceil((width + num_tokens) / CACHE_COLUMNS))
        cache = self._float32.make_cache(len(rows), capacity=capacity, padding=tf.constant(padding))
        return tf.constant(tokens), cache

    def _noise(self, rows: list[Row], count: int, options: SamplingOptions) -> tf.Tensor:
        """(count, batch, vocab_size) Gumbel noise; zeros (count, batch, 1) for greedy choices."""
        if options.is_greedy:
            return tf.zeros((count, len(rows), 1), tf.float64)
        return tf.constant(
            [[row.noise(self.vocab_size, ahead) for row in rows] for ahead in range(count)], tf.float64
        )

    def _loop(self, last, cache, finished, noise, choice, count):
        """(TOKENS_PER_CALL, batch) tokens, of which the first `count` are set, and the cache."""

        def is_unfinished(index, tokens, last, finished, cache):
            return (index < count) & ~tf.reduce_all(finished)

        def add_token(index, tokens, last, finished, cache):
            chosen, finished, cache = self._step(last, cache, finished, noise[index], choice)
            tokens = tf.tensor_scatter_nd_update(tokens, [[index]], chosen[tf.newaxis])
            last = tf.ensure_shape(tf.maximum(chosen, 0)[:, tf.newaxis], (None, 1))  # (batch, 1)
            return index + 1, tokens, last, finished, cache

        tokens = tf.fill(tf.shape(noise)[:2], FINISHED)
        state = (0, tokens, last, finished, cache)
        _, tokens, _, _, cache = tf.while_loop(is_unfinished, add_token, state)
        return tokens, cache

    def _step(self, tokens, cache, finished, noise, choice):
        """(batch,) tokens after the (batch, length) `tokens`, the (batch,) finished rows, and the cache."""
        logits, cache = self._float32.decode(tokens, cache)
        chosen = choose(logits[:, -1, : self.vocab_size], choice, noise)
        finished |= tf.reduce_any(chosen[:, tf.newaxis] == choice.stop_tokens, axis=1)
        return tf.where(finished, FINISHED, chosen), finished, cache


class Choice(NamedTuple):
    """`SamplingOptions` as tensors, so that one trace serves all; a greedy choice has no noise instead."""

    temperature: tf.Tensor  # () float64
    top_k: tf.Tensor  # () int32
    top_p: tf.Tensor  # () float64
    stop_tokens: tf.Tensor  # (count,) int32

    @classmethod
    def from_options(cls, options: SamplingOptions, vocab_size: int) -> "Choice":
        if options.is_greedy:
            options = SamplingOptions(stop_tokens=options.stop_tokens)
        return cls(
            tf.constant(options.temperature, tf.float64),
            tf.constant(min(options.top_k or vocab_size, vocab_size), tf.int32),
            tf.constant(np.inf if options.top_p is None else options.top_p, tf.float64),
            tf.constant(options.stop_tokens, tf.int32),
        )


def choose(logits: tf.Tensor, choice: Choice, noise: tf.Tensor) -> tf.Tensor:
    """(batch,) int32 next tokens from (batch, vocab_size) logits.

    `noise` is (batch, vocab_size) standard Gumbel noise: the largest sum of logit and noise is a sample of
    the softmax. It is (batch, 1) for greedy choices.
    """
    logits = tf.cast(logits, tf.float64) / choice.temperature
    is_restricted = (choice.top_k < tf.shape(logits)[-1]) | (choice.top_p < np.inf)
    return tf.cond(
        is_restricted,
        lambda: choose_among_likely(logits, choice, noise),
        lambda: tf.argmax(logits + noise, axis=-1, output_type=tf.int32),
    )


def choose_among_likely(logits: tf.Tensor, choice: Choice, noise: tf.Tensor) -> tf.Tensor:
    """`choose` with top_k and top_p. Ranking 4,096 tokens takes longer than a small model."""
    # `top_k` takes the first of equal logits. All tokens are ranked, since XLA needs a static number.
    ranked, order = tf.math.top_k(logits, k=tf.shape(logits)[-1])  # (batch, vocab_size) each
    ranked = tf.where(tf.range(tf.shape(logits)[-1]) < choice.top_k, ranked, -np.inf)
    probabilities = tf.exp(ranked - ranked[:, :1])
    previous = tf.cumsum(probabilities, axis=-1, exclusive=True)
    is_candidate = previous < choice.top_p * tf.reduce_sum(probabilities, axis=-1, keepdims=True)
    noise = tf.gather(noise, order, batch_dims=1)
    best = tf.argmax(tf.where(is_candidate, ranked + noise, -np.inf), axis=-1, output_type=tf.int32)
    return tf.gather(order, best, batch_dims=1)  # (batch,)
