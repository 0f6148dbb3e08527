"""Language modelling and passkey retrieval: text as the data of a run."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np

from configs.schema import Config
from data.batches import (
    ALL_ROWS,
    EvaluationBatches,
    batch_dataset,
    evaluation_windows,
    num_evaluation_windows,
    training_batch,
)
from data.corpus import TextCorpus, check_length, load_text
from data.passkeys import check_room, fingerprint, held_out_passkeys, held_out_text, training_passkeys
from data.tokens import SEPARATOR, VOCAB_SIZE, decode, encode
from models.sampling import Sampler, SamplingOptions
from system.text import format_command
from training.evaluation import summed_loss, summed_loss_and_answers
from training.run_log import RunDirectory

SAMPLE_PROMPT_LENGTH, SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 32, 200, 0.8
PROMPT_SOURCE_LENGTH = 100_000  # tokens of the held-out text
# First whole line, else first whole word: a held-out part of a document may begin inside a line.
PROMPT_STARTS = (r"\n([ \t]*\S.*)", r"\s(\S.*)", r"(.+)")
PASSKEY_SAMPLES, SHOWN_QUESTION_LENGTH = 3, 60


@dataclass(frozen=True)
class TextTask:
    """Corpus of a language model; see `runs.load.Task`."""

    config: Config
    corpus: TextCorpus

    unit = "tokens"
    samples_at_end = True
    measure = staticmethod(summed_loss)

    @property
    def description(self) -> str:
        return self.corpus.description

    @property
    def facts(self) -> dict:
        return {"data_fingerprint": self.corpus.fingerprint}

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        batch = partial(
            training_batch,
            self.corpus.train,
            batch_size=self.config.batch_size,
            length=self.config.context_length,
            seed=self.config.seed,
            rows=rows,
        )
        return batch_dataset(batch, start_step=start_step, num_steps=self.config.num_steps)

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        tokens, length = self.corpus.validation, self.config.context_length
        return EvaluationBatches(
            num_evaluation_windows(len(tokens), length),
            partial(evaluation_windows, tokens, length=length),
            batch_size=self.config.batch_size,
            max_batches=max_batches,
            rows=rows,
        )

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        sampler = Sampler(model)
        return lambda: {"sample": sample_text(sampler, self.corpus.validation, seed=self.config.seed)}

    def results(self, means: dict[str, float]) -> dict:
        loss = means["validation_loss"]
        return {
            "context_length": self.config.context_length,
            "targets": len(self.corpus.validation) - 1,
            "nats_per_token": loss,
            "perplexity": math.exp(loss),
            "bits_per_byte": loss / math.log(2),
        }

    def verdict(self, row: dict) -> str:
        loss = row["validation_loss"]
        return f"held-out loss {loss:.4f} nats per token, {loss / math.log(2):.4f} bits per byte"

    def finish(self, directory: RunDirectory, model: keras.Model, row: dict) -> tuple[dict, list[Path], str]:
        files = [directory.samples] if "sample" in row else []
        command = self.next_command(directory.path)
        return {"bits_per_byte": row["validation_loss"] / math.log(2)}, files, command

    def next_command(self, path: Path) -> str:
        """Loss by window after the extension of a trained context, otherwise generation."""
        rope, length = self.config.model.rope, self.config.context_length
        is_scaled = (rope.interpolate_factor, rope.theta_rescale_factor, rope.scaling.type) != (1, 1, "none")
        if self.config.init_from is not None and is_scaled:
            windows = (str(max(1, length // divisor)) for divisor in (4, 2, 1))
            return format_command("-m", "scripts.evaluate", path, "--windows", *windows)
        # The most frequent first word of a line, such as `def` of Python source.
        words = re.findall(r"^[^\W\d_]+", decode(self.corpus.validation[:PROMPT_SOURCE_LENGTH]), re.MULTILINE)
        ((word, _),) = Counter(words).most_common(1) or [("The", 1)]
        return format_command("-m", "scripts.generate", path, "--prompt", f"{word} ")


@dataclass(frozen=True)
class PasskeyTask:
    """Generated texts of a passkey run; see `runs.load.Task`."""

    config: Config

    unit = "tokens"
    samples_at_end = True
    measure = staticmethod(summed_loss_and_answers)

    @property
    def description(self) -> str:
        data = self.config.data
        return (
            f"passkey: a key of {data.digits} digits in a generated text of {self.config.context_length:,} "
            f"bytes, {data.held_out_examples:,} of them held out"
        )

    @property
    def facts(self) -> dict:
        return {"data_fingerprint": fingerprint(**self.sizes)}

    @property
    def sizes(self) -> dict[str, int]:
        return {"length": self.config.context_length, "digits": self.config.data.digits}

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        batch = partial(
            training_passkeys,
            batch_size=self.config.batch_size,
            texts=self.config.data.texts,
            seed=self.config.seed,
            rows=rows,
            **self.sizes,
        )
        return batch_dataset(batch, start_step=start_step, num_steps=self.config.num_steps)

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        return EvaluationBatches(
            self.config.data.held_out_examples,
            partial(held_out_passkeys, **self.sizes),
            batch_size=self.config.batch_size,
            max_batches=max_batches,
            rows=rows,
        )

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        """Function that asks the model for the keys of a few held-out texts."""
        sampler, digits = Sampler(model), self.config.data.digits
        texts = [held_out_text(index, **self.sizes) for index in range(PASSKEY_SAMPLES)]
        questions, keys = [text[:-digits] for text in texts], [text[-digits:] for text in texts]
        prompts = [[SEPARATOR, *encode(question).tolist()] for question in questions]

        def sample() -> dict:
            columns = zip(*sampler.generate(prompts, digits, SamplingOptions(temperature=0)), strict=True)
            answers = [readable(column) for column in columns]
            return {"sample": "\n".join(map(format_answer, questions, answers, keys))}

        return sample

    def results(self, means: dict[str, float]) -> dict:
        return {
            "context_length": self.config.context_length,
            "digits": self.config.data.digits,
            "examples": self.config.data.held_out_examples,
            "nats_per_token": means["validation_loss"],
            "accuracy": means["accuracy"],
        }

    def verdict(self, row: dict) -> str:
        return f"{row['accuracy']:.1%} of held-out keys found, loss {row['validation_loss']:.4f} per digit"

    def finish(self, directory: RunDirectory, model: keras.Model, row: dict) -> tuple[dict, list[Path], str]:
        files = [directory.samples] if "sample" in row else []
        command = format_command("-m", "scripts.passkey", directory.path)
        return {"digits": self.config.data.digits}, files, command


def load_text_task(config: Config, *, report: Callable[[str], None]) -> TextTask:
    """Raises DataError if the text cannot be read or is shorter than one window."""
    corpus = load_text(config.data, report=report)
    check_length(corpus, config.context_length)
    return TextTask(config, corpus)


def load_passkey_task(config: Config) -> PasskeyTask:
    """Raises DataError if the context is too short for a key and its question."""
    check_room(length=config.context_length, digits=config.data.digits)
    return PasskeyTask(config)


def sample_text(sampler: Sampler, tokens: np.ndarray, *, seed: int) -> str:
    """Held-out words, as «prompt», and their continuation by the model."""
    prompt = encode(choose_prompt(tokens, max_length=min(SAMPLE_PROMPT_LENGTH, sampler.capacity))).tolist()
    options = SamplingOptions(temperature=SAMPLE_TEMPERATURE, seed=seed, stop_token=SEPARATOR)
    steps = sampler.generate([prompt], SAMPLE_LENGTH, options)
    return f"«{readable(prompt)}»{readable(token for (token,) in steps)}"


def choose_prompt(tokens: np.ndarray, *, max_length: int) -> str:
    """Whole words of up to `max_length` tokens at the start of a line of the held-out text."""
    tokens = np.asarray(tokens[:PROMPT_SOURCE_LENGTH])
    parts = np.split(tokens, np.flatnonzero(tokens == SEPARATOR))
    documents = [decode(part[part != SEPARATOR]) for part in parts]
    starts = (re.search(start, text, re.DOTALL) for start in PROMPT_STARTS for text in documents)
    text = next(filter(None, starts))[1]
    prompt = decode(encode(text)[:max_length]).rstrip("\N{REPLACEMENT CHARACTER}")
    words = re.match(r"(.*\S)\s", prompt, re.DOTALL)
    return words[1] if words else prompt


def readable(tokens: Iterable[int]) -> str:
    """Text of the tokens that are bytes, with control characters replaced.

    An untrained model generates any byte, and one with a larger vocabulary other tokens too.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in decode([int(token) for token in tokens if 0 <= token < VOCAB_SIZE])
    )


def format_answer(question: str, answer: str, key: str) -> str:
    """End of the question, as «prompt», the model's answer, and whether it is the key."""
    return (
        f"«...{question[-SHOWN_QUESTION_LENGTH:]}»{answer} ({'right' if answer == key else f'it is {key}'})"
    )
