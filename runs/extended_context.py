"""Language models beyond their trained context: zero-shot scalings and checks."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from runs.load import TrainedRun
from system.errors import RunError
from system.text import can_redraw_lines, escape, print_error

SCALING_LENGTHS = ("factor", "original_max_position_embeddings", "target_length")


class Case(NamedTuple):
    """A run at a context of `length` tokens, under a rotary scaling or `none`."""

    run: TrainedRun
    scaling: str
    length: int

    @property
    def is_scaled(self) -> bool:
        return self.scaling != "none" and self.length > self.run.trained_length

    @property
    def factor(self) -> float:
        """Factor by which the scaling extends the context."""
        return self.length / self.run.trained_length if self.is_scaled else 1.0

    @property
    def batch_size(self) -> int:
        """Rows with as many tokens as a training step reads."""
        options = self.run.config
        tokens = options.batch_size // options.accumulation_steps * self.run.trained_length
        return max(1, tokens // self.length)

    @property
    def equivalent(self) -> "Case":
        """Case with the same result: up to the trained length, a scaling changes nothing."""
        return self if self.is_scaled else self._replace(scaling="none")

    @property
    def facts(self) -> dict:
        """First columns of a row of results."""
        run = {"run": str(self.run.path), "step": self.run.manifest["step"]}
        scaling = {"zero_shot": self.scaling, "factor": self.factor}
        return {**run, "context_length": self.run.trained_length, **scaling}


def make_cases(
    runs: list[TrainedRun], scalings: list[str], *, lengths: dict[TrainedRun, list[int]]
) -> list[Case]:
    """Cases of each run, each of `none` and `scalings`, and each length, in this order."""
    types = ("none", *scalings)
    return [Case(run, scaling, length) for run in runs for scaling in types for length in lengths[run]]


def evaluate_cases(
    cases: list[Case], prepare: Callable[[Case], tuple[Sequence, Callable[[Any], np.ndarray]]]
) -> list[np.ndarray]:
    """Values of each case, over all its batches; equivalent cases are evaluated once.

    `prepare` returns the batches of a case, and a function from a batch to its values.
    """
    values, different = {}, dict.fromkeys(case.equivalent for case in cases)
    for number, case in enumerate(different, 1):
        batches, evaluate = prepare(case)
        description = f"{case.run.path} {case.scaling} {case.length:,}"
        if not can_redraw_lines():
            print_error(f"{number}/{len(different)}: {description} tokens")
        progress = tqdm(batches, desc=escape(description), disable=not can_redraw_lines())
        values[case] = np.concatenate([evaluate(batch) for batch in progress])
    return [values[case.equivalent] for case in cases]


def group_rows(rows: list[dict], *columns: str) -> list[list[dict]]:
    """Consecutive rows with the same values of these columns."""
    return [list(group) for _, group in itertools.groupby(rows, key=itemgetter(*columns))]


def label_of(row: dict) -> str:
    """Run and zero-shot scaling of a row, for a figure."""
    return row["run"] if row["zero_shot"] == "none" else f"{row['run']}, {row['zero_shot']}"


def config_of(case: Case) -> TransformerLMConfig:
    """Config of the model that evaluates the case; its weights are those of the run."""
    config = case.run.model.config
    scaling = config.rope.scaling
    if case.is_scaled:
        scaling = type(scaling)(type=case.scaling)
        lengths = dict(zip(SCALING_LENGTHS, (case.factor, config.context_length, case.length), strict=True))
    elif config.rope.xpos and case.length > config.context_length:
        # xPos needs room for the longer context; the lengths in the scaling of the run stay as trained.
        options = config.rotary_options()
        lengths = {**(options["scaling"] or {}), "target_length": options["target_length"]}
    else:
        return config
    scaling = replace(scaling, **{key: lengths.get(key) for key in SCALING_LENGTHS if scaling.reads(key)})
    return replace(config, context_length=case.length, rope=replace(config.rope, scaling=scaling))


def make_case_model(case: Case) -> TransformerLM:
    """The model of the run itself, or one of another config with its weights."""
    trained = case.run.model
    config = config_of(case)
    if config == trained.config:
        return trained
    separator = trained.document_separator
    model = TransformerLM(config, dtype=trained.dtype_policy.name, document_separator=separator)
    model.set_weights(trained.get_weights())
    return model


def check_run(run: TrainedRun, lengths: list[int], *, scalings: list[str]) -> None:
    """Raises RunError or ConfigError for what cannot be evaluated."""
    trained, config = run.trained_length, run.model.config
    longer = [length for length in lengths if length > trained]
    if longer and config.position == "learned":
        raise RunError(
            f"the learned positions of {run.path} end at its context_length {trained:,}: use shorter windows"
        )
    if scalings and config.rope.is_scaled:
        raise RunError(
            f"--zero-shot needs a model without a scaling, but {run.path} has one: evaluate its parent run"
        )
    for case in make_cases([run], scalings, lengths={run: longer}):
        config_of(case)
