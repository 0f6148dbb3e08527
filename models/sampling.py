"""Sampling from a language model with its cache."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from models.cache import Cache
from models.transformer import TransformerLM

FINISHED = -1


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen.

    temperature: divides the logits; 0 takes the likeliest token (greedy).
    top_k: only the k likeliest tokens; None for all.
    top_p: of those, only the likeliest that together reach this probability (Holtzman et al. 2019,
        arXiv 1904.09751); None for all.
    seed: of the noise. A row's noise is keyed by (seed, prompt, token index), so that it is the same
        whatever else is in the batch.
    overflow: what a row does with one token more than the context holds: `slide` goes on from its last
        `context_length // 2` tokens, at least one; `stop` ends it.
    stop_token: ends a row, and is not part of it; None for none.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    overflow: str = "slide"
    stop_token: int | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}; 0 is greedy.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be >= 1, got {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}.")
        if self.overflow not in ("slide", "stop"):
            raise ValueError(f"overflow must be 'slide' or 'stop', got {self.overflow!r}.")


class Row:
    """One sequence of a batch: its tokens, and from where on the model sees them."""

    def __init__(self, prompt: Sequence[int], seed: int):
        self.tokens = [int(token) for token in prompt]
        self.prompt_length = len(self.tokens)
        self.window_start = 0
        self.finished = False
        digest = hashlib.sha256(f"{seed}:{','.join(map(str, self.tokens))}".encode()).digest()
        self.noise_key = np.frombuffer(digest[:16], np.uint64)

    @property
    def window(self) -> list[int]:
        return self.tokens[self.window_start :]

    def noise(self, size: int) -> np.ndarray:
        """(size,) Gumbel noise of the next token."""
        index = len(self.tokens) - self.prompt_length
        generator = np.random.Generator(np.random.Philox(key=self.noise_key, counter=[0, 0, 0, index]))
        return generator.gumbel(size=size)


class Sampler:
    """Generates from a model; keeps the compiled decoding step between calls.

    Args:
        model: a `TransformerLM`.
    """

    def __init__(self, model: TransformerLM):
        self.model = model
        self.capacity = model.config.context_length
        store = tf.TensorSpec(
            (None, model.config.num_kv_heads, self.capacity, model.head_dim), model.compute_dtype
        )
        stores = (store,) * model.config.num_layers
        cache = Cache(
            keys=stores,
            values=stores,
            length=tf.TensorSpec((), tf.int32),
            padding=tf.TensorSpec((None,), tf.int32),
        )
        self._decode = tf.function(
            self._last_logits, input_signature=[tf.TensorSpec((None, None), tf.int32), cache]
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, options: SamplingOptions
    ) -> Iterator[np.ndarray]:
        """Continues a batch of prompts, one token of each row at a time.

        Args:
            prompts: token sequences, each of 1 to `context_length` tokens; lengths may differ.
            num_tokens: how many to add to each.
            options: see `SamplingOptions`.

        Yields:
            (batch,) int32 next tokens; `FINISHED` for a row that has ended.

        Raises:
            ValueError: if there is no prompt, or a prompt is empty, longer than the context, or has a token
                outside the vocabulary.
        """
        rows = [Row(prompt, options.seed) for prompt in prompts]
        self._check(rows)
        return self._generate(rows, num_tokens, options)

    def _check(self, rows: list[Row]) -> None:
        if not rows:
            raise ValueError("there is no prompt; give at least one.")
        for row in rows:
            if not row.tokens:
                raise ValueError("a prompt is empty; give at least one token.")
            if len(row.tokens) > self.capacity:
                raise ValueError(
                    f"a prompt has {len(row.tokens)} tokens, the context holds {self.capacity}; shorten it."
                )
            if not all(0 <= token < self.model.config.vocab_size for token in row.tokens):
                raise ValueError(
                    f"a prompt has a token outside the vocabulary of {self.model.config.vocab_size}."
                )

    def _generate(self, rows, num_tokens, options):
        logits, cache = self._prefill(rows)
        for index in range(num_tokens):
            step = np.array(
                [self._advance(row, scores, options) for row, scores in zip(rows, logits, strict=True)]
            )
            yield step
            if all(row.finished for row in rows) or index == num_tokens - 1:
                return
            if int(cache.length) == self.capacity:
                logits, cache = self._prefill(rows)
            else:
                logits, cache = self._run(np.maximum(step, 0)[:, np.newaxis], cache)

    def _advance(self, row: Row, logits: np.ndarray, options: SamplingOptions) -> int:
        """The row's next token, appended to it, or `FINISHED`."""
        if row.finished:
            return FINISHED
        noise = row.noise(len(logits)) if options.temperature > 0 else None
        token = choose(logits, options, noise)
        if token == options.stop_token:
            row.finished = True
            return FINISHED
        row.tokens.append(token)
        if len(row.window) > self.capacity:
            self._overflow(row, options)
        return token

    def _overflow(self, row: Row, options: SamplingOptions) -> None:
        if options.overflow == "stop":
            row.finished = True
        elif options.overflow == "slide":
            row.window_start = len(row.tokens) - max(1, self.capacity // 2)
        else:
            raise ValueError(f"overflow must be 'slide' or 'stop', got {options.overflow!r}.")

    def _prefill(self, rows: list[Row]) -> tuple[np.ndarray, Cache]:
        # A finished row is never read again: one token keeps its place.
        windows = [row.window[-1:] if row.finished else row.window for row in rows]
        width = max(map(len, windows))
        padding = np.array([width - len(window) for window in windows], np.int32)
        tokens = np.array([[0] * (width - len(window)) + window for window in windows], np.int32)
        return self._run(tokens, self.model.make_cache(len(rows), padding=tf.constant(padding)))

    def _run(self, tokens: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        logits, cache = self._decode(tf.constant(tokens, tf.int32), cache)
        return logits.numpy(), cache

    def _last_logits(self, tokens, cache):
        logits, cache = self.model.decode(tokens, cache)
        return logits[:, -1], cache


def choose(logits: np.ndarray, options: SamplingOptions, noise: np.ndarray | None) -> int:
    """The next token of one row.

    Args:
        logits: (vocab_size,) float32.
        options: temperature, top_k and top_p are read.
        noise: (vocab_size,) standard Gumbel noise, which makes the largest sum a sample of the softmax; not
            read at temperature 0.
    """
    if options.temperature == 0:
        return int(np.argmax(logits))
    logits = logits.astype(np.float64) / options.temperature
    order = np.argsort(-logits, kind="stable")
    kept = len(logits) if options.top_k is None else min(options.top_k, len(logits))
    if options.top_p is not None:
        probabilities = np.exp(logits[order[:kept]] - logits[order[0]])
        before = np.cumsum(probabilities) - probabilities
        kept = int(np.sum(before < options.top_p * np.sum(probabilities)))
    candidates = order[:kept]
    return int(candidates[np.argmax(logits[candidates] + noise[candidates])])
