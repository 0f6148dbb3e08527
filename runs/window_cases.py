"""What an evaluation by window compares: trained runs, scalings of them, and windows."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.schema import Config
from data.config import PasskeyConfig
from data.corpus import TextCorpus, load_text
from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from rope.config import RopeConfig, RopeScalingConfig
from runs.load import load_model, note_other_data
from system.errors import RunError
from system.terminal import print_error
from training.window_losses import WindowEvaluator, make_window_evaluator


@dataclass(frozen=True, eq=False)
class Run:
    """A trained language model and, where its loss is measured, the text that it was trained on."""

    path: Path
    model: TransformerLM
    config: Config
    manifest: dict
    corpus: TextCorpus | None = None

    @property
    def trained_length(self) -> int:
        return self.model.config.context_length

    @cached_property
    def evaluate(self) -> WindowEvaluator:
        return make_window_evaluator(self.model, compile_mode=self.config.compile)


class Case(NamedTuple):
    """A run at one window, under a scaling or `none`."""

    run: Run
    scaling: str
    window: int

    @property
    def is_scaled(self) -> bool:
        return self.scaling != "none" and self.window > self.run.trained_length

    @property
    def factor(self) -> float:
        """By which the scaling stretches the context."""
        return self.window / self.run.trained_length if self.is_scaled else 1.0

    @property
    def measured(self) -> "Case":
        """The case whose result this one has: up to the trained length there is no scaling."""
        return self if self.is_scaled else self._replace(scaling="none")


def load_run(path: Path) -> Run:
    model, config, manifest = load_model(path, of=TransformerLMConfig)
    if isinstance(config.data, PasskeyConfig):
        raise RunError(
            f"{path} was trained on generated passkeys, so that there is no held-out text to measure it on. "
            f"Measure how many keys it finds: python -m scripts.passkey {path}"
        )
    corpus = load_text(config.data, report=print_error)
    note_other_data(path, config, manifest, fingerprint=corpus.fingerprint)
    return Run(path, model, config, manifest, corpus)


def check_run(run: Run, windows: list[int], *, scalings: list[str], attention: str) -> None:
    """Raises RunError for what cannot be evaluated or would have no effect; warns of extrapolation."""
    config, trained = run.model.config, run.trained_length
    beyond = [window for window in windows if window > trained]
    if beyond and config.position == "learned":
        raise RunError(
            f"a window of {beyond[0]:,} cannot be evaluated: the learned positions of {run.path} end at its "
            f"context_length {trained:,}. Leave out longer windows"
        )
    if not beyond and (scalings or attention != "full"):
        option = "--zero-shot" if scalings else f"--attention {attention}"
        raise RunError(
            f"{option} has no effect on {run.path}: no window is longer than its context of {trained:,}"
        )
    if scalings:
        check_unscaled(run)
    for scaling in ("none", *scalings):
        for window in windows:
            check_config(Case(run, scaling, window))
    if beyond:
        longer = ", ".join(f"{window:,}" for window in beyond)
        print_error(
            f"warning: {run.path} was trained on a context of {trained:,} tokens; without a scaling the "
            f"windows {longer} are extrapolation"
        )


def check_unscaled(run: Run) -> None:
    config = run.model.config
    if config.position != "rotary":
        raise RunError(
            f"--zero-shot scales rotary positions, {run.path} has position={config.position}. Leave it out"
        )
    rope = config.rope
    for key, value, default in (
        ("scaling.type", rope.scaling.type, "none"),
        ("interpolate_factor", rope.interpolate_factor, RopeConfig.interpolate_factor),
        ("theta_rescale_factor", rope.theta_rescale_factor, RopeConfig.theta_rescale_factor),
    ):
        if value != default:
            raise RunError(
                f"--zero-shot starts from a model without a scaling, but {run.path} was trained with "
                f"model.rope.{key}={value}. Evaluate it without --zero-shot, or the run it came from with it"
            )


def check_config(case: Case) -> None:
    config = config_of(case)
    for part in (config, config.rope, config.rope.scaling):
        for key, message in part.problems():
            scaled = f" under {case.scaling} scaling" if case.is_scaled else ""
            raise RunError(f"{case.run.path} cannot be evaluated at {case.window:,}{scaled}: {key} {message}")


def shared_text(runs: list[Run]) -> np.ndarray:
    """The held-out tokens of all runs; RunError if they are not the same."""
    first = runs[0]
    for run in runs[1:]:
        if run.corpus.fingerprint != first.corpus.fingerprint:
            raise RunError(
                f"{first.path} and {run.path} hold out different text, so that their losses cannot be "
                "compared. Evaluate them one by one"
            )
    return first.corpus.validation


def config_of(case: Case) -> TransformerLMConfig:
    """The model that evaluates a case."""
    config = case.run.model.config
    if case.is_scaled:
        return scaled_config(config, case.scaling, length=case.window)
    if config.rope.xpos and case.window > config.context_length:
        return lengthened_config(config, length=case.window)
    return config


def scaled_config(config: TransformerLMConfig, scaling: str, *, length: int) -> TransformerLMConfig:
    """The model under a scaling that stretches its context to `length`: the factor is their ratio."""
    plain = RopeScalingConfig(type=scaling)
    keys = {
        "factor": length / config.context_length,
        "original_max_position_embeddings": config.context_length,
        "target_length": length,
    }
    chosen = replace(plain, **{key: value for key, value in keys.items() if plain.reads(key)})
    return replace(config, context_length=length, rope=replace(config.rope, scaling=chosen))


def lengthened_config(config: TransformerLMConfig, *, length: int) -> TransformerLMConfig:
    """The same model with room for `length` positions, which xPos needs; its scaling stays as it was."""
    options, scaling = config.rotary_options(), config.rope.scaling
    lengths = {**(options["scaling"] or {}), "target_length": options["target_length"]}
    kept = {
        key: lengths.get(key)
        for key in ("original_max_position_embeddings", "target_length")
        if scaling.reads(key)
    }
    rope = replace(config.rope, scaling=replace(scaling, **kept))
    return replace(config, context_length=length, rope=rope)


def evaluator_of(case: Case) -> WindowEvaluator:
    if case.run.model.config == config_of(case):
        return case.run.evaluate
    return make_window_evaluator(model_of(case), compile_mode=case.run.config.compile)


def model_of(case: Case) -> TransformerLM:
    """The weights of the run in the model of the case; none of its options adds or changes a weight."""
    trained = case.run.model
    if trained.config == config_of(case):
        return trained
    model = TransformerLM(
        config_of(case), dtype=trained.dtype_policy.name, document_separator=trained.document_separator
    )
    model.set_weights(trained.get_weights())
    return model


def attention_block(run: Run, attention: str) -> int | None:
    """Columns of a block for `TransformerLM`: half the trained length, as in arXiv 2212.10554."""
    if attention == "full":
        return None
    if attention == "blockwise-causal":
        return run.trained_length // 2
    raise ValueError(f"attention must be full or blockwise-causal, got {attention!r}.")
