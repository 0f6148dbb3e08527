"""Language modelling and passkey retrieval: text as the data of a run."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from configs.schema import Config
from data.batches import ALL_ROWS, EvaluationBatches, batch_dataset, evaluation_windows, training_batch
from data.config import BPE
from data.corpus import MAX_TRAINING_BYTES, TextCorpus, check_length, load_text, tokenizer_of
from data.passkeys import Passkeys
from data.sources import Report
from data.tokenizer import BYTES, Tokenizer
from models.sampling import Sampler, SamplingOptions
from system.errors import DataError
from system.text import escape, format_percent
from training.evaluation import summed_loss, summed_loss_and_answers
from training.run_log import RunDirectory

SAMPLE_PROMPT_LENGTH, SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 64, 200, 0.8
PROMPT_SOURCE_LENGTH = 100_000  # tokens of the held-out text
FUNCTION = r'\n([ \t]*def [^\n]*:\n[ \t]*"""[^"\n]*"""\n)'  # in Python, with a docstring of one line
PASSKEY_SAMPLES, SHOWN_QUESTION_LENGTH = 3, 60


class TextTask:
    """Corpus of a language model; see `runs.load.Task`."""

    unit, next_script = "tokens", "scripts.generate"
    measure = staticmethod(summed_loss)

    def __init__(self, config: Config, corpus: TextCorpus):
        self.config, self.corpus, self.tokenizer = config, corpus, corpus.tokenizer
        self.description, self.epoch_size = corpus.description, len(corpus.train)
        self.facts = {"data_fingerprint": corpus.fingerprint}
        if self.tokenizer.json is not None:
            size, length = self.tokenizer.vocab_size, config.context_length
            context = f"about {corpus.bytes_of(length):,} bytes in {length:,} tokens"
            self.description += f"; a vocabulary of {size:,}, {context}"

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        batch = partial(training_batch, self.corpus.train, length=self.config.context_length)
        return training_dataset(self.config, batch, start_step, rows)

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        tokens, length = self.corpus.validation, self.config.context_length
        load = partial(evaluation_windows, tokens, length=length)
        num_windows = -(-(len(tokens) - 1) // length)
        return EvaluationBatches(num_windows, load, self.config.batch_size, max_batches, rows)

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        sampler = Sampler(model, vocab_size=self.tokenizer.vocab_size)
        tokens, seed = self.corpus.validation, self.config.seed
        return lambda: {"sample": sample_text(sampler, tokens, self.tokenizer, seed=seed)}

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return {**means, "bits_per_byte": self.corpus.bits_per_byte(means["validation_loss"])}

    def results(self, means: dict[str, float]) -> dict:
        loss, corpus = means["validation_loss"], self.corpus
        sizes = {"targets": len(corpus.validation) - 1, "bytes": corpus.num_bytes["validation"]}
        losses = {"nats_per_token": loss, "perplexity": math.exp(loss)}
        bits = {"bits_per_byte": corpus.bits_per_byte(loss)}
        return {"context_length": self.config.context_length, **sizes, **losses, **bits}

    def verdict(self, row: dict) -> str:
        loss, bits = row["validation_loss"], row["bits_per_byte"]
        return f"held-out loss {loss:.4f} nats per token, {bits:.4f} bits per byte"

    def finish(self, directory: RunDirectory, model: keras.Model) -> tuple[dict, list[Path]]:
        context_bytes = self.corpus.bytes_of(self.config.context_length)
        facts = {"vocab_size": self.tokenizer.vocab_size, "context_bytes": context_bytes}
        if self.config.data.tokenizer == BPE:
            facts["tokenizer_training_bytes"] = min(self.corpus.num_bytes["train"], MAX_TRAINING_BYTES)
        return facts, []


class PasskeyTask:
    """Generated texts of a passkey run; see `runs.load.Task`."""

    unit, next_script = "tokens", "scripts.passkey"
    epoch_size = None
    measure = staticmethod(summed_loss_and_answers)

    def __init__(self, config: Config, passkeys: Passkeys):
        self.config, self.passkeys, self.tokenizer = config, passkeys, passkeys.tokenizer
        self.facts = {"data_fingerprint": passkeys.fingerprint()}
        held_out = f"{config.data.held_out_examples:,} of them held out"
        texts = f"a generated text of {config.context_length:,} tokens, {held_out}"
        self.description = f"passkey: a key of {config.data.digits} digits in {texts}"

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        batch = partial(self.passkeys.training_batch, texts=self.config.data.texts)
        return training_dataset(self.config, batch, start_step, rows)

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        count, batch_size = self.config.data.held_out_examples, self.config.batch_size
        return EvaluationBatches(count, self.passkeys.held_out, batch_size, max_batches, rows)

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        """Function that asks the model for the keys of a few held-out texts."""
        tokenizer, digits = self.tokenizer, self.config.data.digits
        sampler = Sampler(model, vocab_size=tokenizer.vocab_size)
        texts = [self.passkeys.held_out_text(index).tolist() for index in range(PASSKEY_SAMPLES)]
        prompts = [[tokenizer.separator, *text[:-digits]] for text in texts]

        def sample() -> dict:
            answers = zip(*sampler.generate(prompts, digits, SamplingOptions(temperature=0)), strict=True)
            lines = []
            for text, answer in zip(texts, answers, strict=True):
                question, answer, key = map(tokenizer.decode, (text[:-digits], answer, text[-digits:]))
                verdict = "right" if answer == key else f"it is {key}"
                lines.append(escape(f"«...{question[-SHOWN_QUESTION_LENGTH:]}»{answer} ({verdict})"))
            return {"sample": "\n".join(lines)}

        return sample

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return means

    def results(self, means: dict[str, float]) -> dict:
        data, length = self.config.data, self.config.context_length
        sizes = {"context_length": length, "digits": data.digits, "examples": data.held_out_examples}
        return {**sizes, "nats_per_token": means["validation_loss"], "accuracy": means["accuracy"]}

    def verdict(self, row: dict) -> str:
        found, loss = format_percent(row["accuracy"]), row["validation_loss"]
        return f"{found} of held-out keys found, loss {loss:.4f} per digit"

    def finish(self, directory: RunDirectory, model: keras.Model) -> tuple[dict, list[Path]]:
        return {"digits": self.config.data.digits}, []


def training_dataset(config: Config, batch: Callable, start_step: int, rows: slice):
    """Dataset of the batches from `start_step` on."""
    batch = partial(batch, batch_size=config.batch_size, seed=config.seed, rows=rows)
    return batch_dataset(batch, start_step=start_step, num_steps=config.num_steps)


def load_text_task(config: Config, *, report: Report, tokenizer: Tokenizer | None = None) -> TextTask:
    """Loads the text; `tokenizer` is that of an existing run. Raises DataError if the model cannot use it."""
    corpus = load_text(config.data, tokenizer=tokenizer, report=report)
    check_length(corpus, config.context_length)
    return TextTask(fill_vocab_size(config, corpus.tokenizer), corpus)


def load_passkey_task(config: Config, *, tokenizer: Tokenizer | None = None) -> PasskeyTask:
    """Raises DataError if the context is too short for a key, or the vocabulary too small."""
    tokenizer = tokenizer or tokenizer_of(config.data)
    passkeys = Passkeys(config.context_length, config.data.digits, tokenizer)
    return PasskeyTask(fill_vocab_size(config, tokenizer), passkeys)


def fill_vocab_size(config: Config, tokenizer: Tokenizer) -> Config:
    """Config with a `model.vocab_size`; raises DataError if it is smaller than that of the tokenizer."""
    size = config.model.vocab_size
    if size is None:
        return replace(config, model=replace(config.model, vocab_size=tokenizer.vocab_size))
    if size < tokenizer.vocab_size:
        raise DataError(
            f"model.vocab_size={size} is smaller than the vocabulary of the tokenizer, "
            f"{tokenizer.vocab_size:,} tokens. Leave it out, or set another data.tokenizer"
        )
    return config


def sample_text(sampler: Sampler, tokens: np.ndarray, tokenizer: Tokenizer = BYTES, *, seed: int) -> str:
    """Held-out words, as «prompt», and their continuation by the model."""
    max_length = min(SAMPLE_PROMPT_LENGTH, sampler.capacity - len(tokenizer.prefix))
    text = choose_prompt(tokens, tokenizer, max_length=max_length)
    # A context shorter than a character holds no text.
    prompt = tokenizer.encode(text).tolist() or [tokenizer.separator]
    options = SamplingOptions(temperature=SAMPLE_TEMPERATURE, seed=seed, stop_tokens=tokenizer.stop_tokens)
    steps = sampler.generate([[*tokenizer.prefix, *prompt]], SAMPLE_LENGTH, options)
    continuation = tokenizer.decode(token for (token,) in steps)
    return escape(f"«{tokenizer.decode(prompt)}»{continuation}")


def choose_prompt(tokens: np.ndarray, tokenizer: Tokenizer = BYTES, *, max_length: int) -> str:
    """Whole words of up to `max_length` held-out tokens, from a function or the start of a line."""
    tokens = np.asarray(tokens[:PROMPT_SOURCE_LENGTH])
    text = tokenizer.decode(tokens[tokens != tokenizer.separator])
    # The text may begin inside a line.
    if start := re.search(FUNCTION, text) or re.search(r"\n([ \t]*\S.*)", text, re.DOTALL):
        text = start[1]
    prompt = tokenizer.decode(tokenizer.encode(text)[:max_length]).rstrip("\N{REPLACEMENT CHARACTER}")
    words = re.match(r"(.*\S)\s", prompt, re.DOTALL)
    return words[1] if words else prompt
