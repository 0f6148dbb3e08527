"""Passkey retrieval: generated texts that ask for a number stated earlier."""

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
from runs.task import Outcome
from runs.text_task import describe_language_model, readable
from training.evaluation import summed_loss_and_answers
from training.run_log import RunDirectory

NUM_SAMPLES, SAMPLE_LENGTH = 3, 60


@dataclass(frozen=True)
class PasskeyTask:
    """Generated texts of a passkey run; see `runs.task.Task`."""

    config: Config

    unit = "tokens"
    samples_at_end = True
    measure = staticmethod(summed_loss_and_answers)

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size * self.config.context_length

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
        return passkey_evaluation_batches(
            self.config.data.held_out_examples,
            batch_size=self.config.batch_size,
            max_batches=max_batches,
            rows=rows,
            **self.sizes,
        )

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        """Function that asks the model for the keys of a few held-out texts."""
        sampler, digits = Sampler(model), self.config.data.digits
        texts = [held_out_text(index, **self.sizes) for index in range(NUM_SAMPLES)]
        questions, keys = [text[:-digits] for text in texts], [text[-digits:] for text in texts]
        prompts = [[SEPARATOR, *encode(question).tolist()] for question in questions]

        def sample() -> dict:
            columns = zip(*sampler.generate(prompts, digits, SamplingOptions(temperature=0)), strict=True)
            answers = [readable(column) for column in columns]
            return {"sample": "\n".join(map(format_answer, questions, answers, keys))}

        return sample

    def describe_model(self) -> list[str]:
        return describe_language_model(self.config.model)

    def describe_batch(self) -> str:
        return f"{self.config.batch_size} x {self.config.context_length} tokens"

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

    def finish(self, directory: RunDirectory, model: keras.Model, row: dict) -> Outcome:
        return Outcome(
            summary={"digits": self.config.data.digits},
            files=[directory.samples] if "sample" in row else [],
            next_command=f"python -m scripts.passkey {directory.path}",
        )


def load_passkey_task(config: Config) -> PasskeyTask:
    """Raises DataError if the context is too short for a key and its question."""
    check_room(length=config.context_length, digits=config.data.digits)
    return PasskeyTask(config)


def format_answer(question: str, answer: str, key: str) -> str:
    """End of the question, the model's answer, and whether it is the key."""
    return f"...{question[-SAMPLE_LENGTH:]}{answer} ({'right' if answer == key else f'it is {key}'})"
