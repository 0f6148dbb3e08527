"""Language modelling as a task of the loop: text, what is measured on it, and what a run shows of itself."""

import itertools
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras

from configs.schema import Config
from data.batches import ALL_ROWS, batch_dataset, evaluation_batches, training_batch
from data.corpus import TextCorpus, check_length, load_text
from data.tokens import SEPARATOR
from models.sampling import Sampler, SamplingOptions
from runs.token_task import TokenTask, readable, samples_of
from training.losses import summed_loss

SAMPLE_PROMPT_LENGTH, SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 32, 200, 0.8


@dataclass(frozen=True)
class TextTask(TokenTask):
    """A corpus under a config; `load_text_task` makes it."""

    corpus: TextCorpus

    data_word = "text"
    measure = staticmethod(summed_loss)

    @property
    def description(self) -> str:
        return self.corpus.description

    @property
    def facts(self) -> dict:
        """What a checkpoint records of the data."""
        return {"data_fingerprint": self.corpus.fingerprint}

    @property
    def shape(self) -> dict[str, int]:
        return {"batch_size": self.config.batch_size, "length": self.config.context_length}

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        """The batches that are left, or of each the rows that are wanted."""
        config = self.config
        batch = partial(training_batch, self.corpus.train, seed=config.seed, rows=rows, **self.shape)
        return batch_dataset(batch, start_step=start_step, num_steps=config.num_steps)

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        """All held-out text, or an even choice of it."""
        return evaluation_batches(self.corpus.validation, **self.shape, max_batches=max_batches, rows=rows)

    def sampler(self, directory, model: keras.Model) -> Callable[[], dict]:
        """A function that lets the model go on from a held-out beginning."""
        sampler, seed = Sampler(model), self.config.seed
        return lambda: {"sample": sample_text(sampler, self.corpus.validation, seed=seed)}

    def results(self, means: dict[str, float]) -> dict:
        """One row of a table of runs, from the means over all held-out text."""
        loss = means["validation_loss"]
        return {
            "context_length": self.config.context_length,
            "targets": len(self.corpus.validation) - 1,
            "nats_per_token": loss,
            "perplexity": math.exp(loss),
            "bits_per_byte": loss / math.log(2),
        }

    def verdict(self, row: dict) -> str:
        """How good the model is, in words."""
        loss = row["validation_loss"]
        return f"held-out loss {loss:.4f} nats per token, {loss / math.log(2):.4f} bits per byte"

    def finish(self, directory, model: keras.Model, row: dict) -> dict:
        """What the summary says beside the measures."""
        return {"bits_per_byte": row["validation_loss"] / math.log(2)}

    def show(self, directory, row: dict) -> tuple[list, str]:
        """The files that show what the model makes, and the command to try next."""
        prompt = shlex.quote(next(iter(row.get("sample", "").split()), "The"))
        return samples_of(directory, row), f"python -m scripts.generate {directory.path} --prompt {prompt}"


def load_text_task(config: Config, *, report: Callable[[str], None] = print) -> TextTask:
    """Raises DataError if there is no such text, or less of it than one window."""
    corpus = load_text(config.data, report=report)
    check_length(corpus, config.context_length)
    return TextTask(config, corpus)


def sample_text(sampler: Sampler, tokens, *, seed: int) -> str:
    """A held-out beginning, continued by the model."""
    beginning = tokens[1 : 1 + min(SAMPLE_PROMPT_LENGTH, sampler.capacity)].tolist()
    prompt = list(itertools.takewhile(lambda token: token != SEPARATOR, beginning))
    options = SamplingOptions(temperature=SAMPLE_TEMPERATURE, seed=seed, stop_token=SEPARATOR)
    steps = sampler.generate([prompt], SAMPLE_LENGTH, options)
    return readable([*prompt, *(token for (token,) in steps)])
