"""Passkey retrieval as a task of the loop: generated texts, how many keys are found, and a few questions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras

from configs.schema import Config
from data.batches import ALL_ROWS, batch_dataset
from data.passkeys import (
    check_room,
    fingerprint,
    held_out_text,
    passkey_evaluation_batches,
    training_passkeys,
)
from data.tokens import SEPARATOR, encode
from models.sampling import Sampler, SamplingOptions
from runs.token_task import TokenTask, readable, samples_of
from training.losses import summed_loss_and_answers

NUM_SHOWN, SHOWN_LENGTH = 3, 60


@dataclass(frozen=True)
class PasskeyTask(TokenTask):
    """Generated texts under a config; `load_passkey_task` makes it."""

    data_word = "passkeys"
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
        """What a checkpoint records of the data."""
        return {"data_fingerprint": fingerprint(**self.shape)}

    @property
    def shape(self) -> dict[str, int]:
        return {"length": self.config.context_length, "digits": self.config.data.digits}

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        """The batches that are left, or of each the rows that are wanted."""
        config = self.config
        batch = partial(
            training_passkeys,
            batch_size=config.batch_size,
            texts=config.data.texts,
            seed=config.seed,
            rows=rows,
            **self.shape,
        )
        return batch_dataset(batch, start_step=start_step, num_steps=config.num_steps)

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        """All held-out texts, or an even choice of them."""
        return passkey_evaluation_batches(
            self.config.data.held_out_examples,
            batch_size=self.config.batch_size,
            max_batches=max_batches,
            rows=rows,
            **self.shape,
        )

    def sampler(self, directory, model: keras.Model) -> Callable[[], dict]:
        """A function that puts a few held-out questions to the model."""
        sampler, digits = Sampler(model), self.config.data.digits
        texts = [held_out_text(index, **self.shape) for index in range(NUM_SHOWN)]
        questions, keys = [text[:-digits] for text in texts], [text[-digits:] for text in texts]
        prompts = [[SEPARATOR, *encode(question).tolist()] for question in questions]
        greedy = SamplingOptions(temperature=0)

        def sample() -> dict:
            columns = zip(*sampler.generate(prompts, digits, greedy), strict=True)
            answers = [readable(column) for column in columns]
            return {"sample": "\n".join(map(shown, questions, answers, keys))}

        return sample

    def results(self, means: dict[str, float]) -> dict:
        """One row of a table of runs, from the means over all held-out texts."""
        return {
            "context_length": self.config.context_length,
            "digits": self.config.data.digits,
            "examples": self.config.data.held_out_examples,
            "nats_per_token": means["validation_loss"],
            "accuracy": means["accuracy"],
        }

    def verdict(self, row: dict) -> str:
        """How good the model is, in words."""
        return f"{row['accuracy']:.1%} of held-out keys found, loss {row['validation_loss']:.4f} per digit"

    def finish(self, directory, model: keras.Model, row: dict) -> dict:
        """What the summary says beside the measures."""
        return {"digits": self.config.data.digits}

    def show(self, directory, row: dict) -> tuple[list, str]:
        """The files that show what the model makes, and the command to try next."""
        return samples_of(directory, row), f"python -m scripts.passkey {directory.path}"


def load_passkey_task(config: Config) -> PasskeyTask:
    """Raises DataError if the context does not hold a key and its question."""
    check_room(length=config.context_length, digits=config.data.digits)
    return PasskeyTask(config)


def shown(question: str, answer: str, key: str) -> str:
    """The end of a text with its question, the model's answer, and whether it is the key."""
    return f"...{question[-SHOWN_LENGTH:]}{answer} ({'right' if answer == key else f'it is {key}'})"
