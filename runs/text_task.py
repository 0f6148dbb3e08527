"""Language modelling: text as the data of a run."""

import itertools
import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import keras

from configs.schema import Config
from data.batches import ALL_ROWS, batch_dataset, evaluation_batches, training_batch
from data.corpus import TextCorpus, check_length, load_text
from data.tokens import SEPARATOR, VOCAB_SIZE, decode
from models.config import TransformerLMConfig
from models.sampling import Sampler, SamplingOptions
from runs.task import Outcome
from training.evaluation import summed_loss
from training.run_log import RunDirectory

SAMPLE_PROMPT_LENGTH, SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 32, 200, 0.8


@dataclass(frozen=True)
class TextTask:
    """Corpus of a language model; see `runs.task.Task`."""

    config: Config
    corpus: TextCorpus

    unit = "tokens"
    samples_at_end = True
    measure = staticmethod(summed_loss)

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size * self.config.context_length

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
        return evaluation_batches(
            self.corpus.validation,
            batch_size=self.config.batch_size,
            length=self.config.context_length,
            max_batches=max_batches,
            rows=rows,
        )

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        sampler = Sampler(model)
        return lambda: {"sample": sample_text(sampler, self.corpus.validation, seed=self.config.seed)}

    def describe_model(self) -> list[str]:
        return describe_language_model(self.config.model)

    def describe_batch(self) -> str:
        return f"{self.config.batch_size} x {self.config.context_length} tokens"

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

    def finish(self, directory: RunDirectory, model: keras.Model, row: dict) -> Outcome:
        prompt = shlex.quote(next(iter(row.get("sample", "").split()), "The"))
        return Outcome(
            summary={"bits_per_byte": row["validation_loss"] / math.log(2)},
            files=[directory.samples] if "sample" in row else [],
            next_command=f"python -m scripts.generate {directory.path} --prompt {prompt}",
        )


def load_text_task(config: Config, *, report: Callable[[str], None]) -> TextTask:
    """Raises DataError if the text cannot be read or is shorter than one window."""
    corpus = load_text(config.data, report=report)
    check_length(corpus, config.context_length)
    return TextTask(config, corpus)


def describe_language_model(model: TransformerLMConfig) -> list[str]:
    """Context, positions and their options."""
    details = [f"context {model.context_length}", f"position {model.position}"]
    if model.position != "rotary":
        return details
    rope = model.rope
    details += [f"theta {rope.theta:g}", rope.layout, f"interpolate_factor {rope.interpolate_factor:g}"]
    if rope.scaling.type != "none":
        details.append(f"{rope.scaling.type} scaling {rope.scaling.set_keys()}")
    if rope.xpos:
        details.append("xPos")
    if rope.learned_freq:
        details.append("learned frequencies")
    if rope.rotary_fraction != 1:
        details.append(f"rotary_fraction {rope.rotary_fraction:g}")
    return details


def sample_text(sampler: Sampler, tokens, *, seed: int) -> str:
    """The beginning of the held-out text, continued by the model."""
    beginning = tokens[1 : 1 + min(SAMPLE_PROMPT_LENGTH, sampler.capacity)].tolist()
    prompt = list(itertools.takewhile(lambda token: token != SEPARATOR, beginning))
    options = SamplingOptions(temperature=SAMPLE_TEMPERATURE, seed=seed, stop_token=SEPARATOR)
    steps = sampler.generate([prompt], SAMPLE_LENGTH, options)
    return readable([*prompt, *(token for (token,) in steps)])


def readable(tokens: Iterable[int]) -> str:
    """Text of the tokens that are bytes, with control characters replaced.

    An untrained model generates any byte, and one with a larger vocabulary other tokens too.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in decode([int(token) for token in tokens if 0 <= token < VOCAB_SIZE])
    )
