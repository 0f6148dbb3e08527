"""How many passkeys a language model finds, by length of context and depth of the key."""

import itertools
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data.config import PasskeyConfig
from data.passkey import check_room, held_out_passkeys
from models.config import TransformerLMConfig
from scripts.context_cases import Case, Run, check_run, model_of
from scripts.context_cost import batch_size_of
from scripts.loading import load_model, print_error
from training.errors import RunError, reason
from training.plot import plot_passkey

LEARNED = 0.9


def load_runs(paths: list[Path]) -> list[Run]:
    return [Run(path, *load_model(path, of=TransformerLMConfig)) for path in paths]


def retrieve(runs: list[Run], lengths: list[int], *, depths: int, examples: int) -> list[dict]:
    """A row for each run, length and depth; the lengths are those given and the one a run was trained at.

    Every depth has the same keys and filler, and so has every run with keys of as many digits.

    Args:
        runs: of language models.
        lengths: of context, in tokens.
        depths: how many, evenly spread from the beginning of the text to its question.
        examples: texts of each length and depth.

    Raises:
        RunError, DataError: for what cannot be measured, before anything is.
    """
    cases = [Case(run, "none", length) for run in runs for length in sorted({*lengths, run.trained_length})]
    for case in cases:
        check_room(length=case.window, digits=digits_of(case.run))
    for run in runs:
        check_run(run, [case.window for case in cases if case.run is run], scalings=[], attention="full")
    batch_sizes = [batch_size_of(case) for case in cases]
    places = np.linspace(0, 1, depths)
    rows = []
    with tqdm(total=len(cases) * depths * examples, disable=None) as progress:
        for case, batch_size in zip(cases, batch_sizes, strict=True):
            progress.set_description(f"{case.run.path} {case.window:,}")
            found = keys_found(case, places, examples=examples, batch_size=batch_size, progress=progress)
            rows += [row_of(case, depth, of_depth) for depth, of_depth in zip(places, found, strict=True)]
    return rows


def keys_found(
    case: Case, depths: np.ndarray, *, examples: int, batch_size: int, progress: tqdm
) -> np.ndarray:
    """(depths, examples) booleans: whether the likeliest digits, one after the other, are the key.

    One pass with the key in place tells: as long as greedy decoding is right, this is what it has read.
    """
    digits = digits_of(case.run)
    model = model_of(case)

    @tf.function(jit_compile=case.run.config.training.compile == "xla")
    def predicted(inputs):
        return tf.argmax(model(inputs, last=digits), axis=-1, output_type=tf.int32)

    numbers, places = np.tile(np.arange(examples), len(depths)), np.repeat(depths, examples)
    found = []
    for start in range(0, len(numbers), batch_size):
        chosen = slice(start, start + batch_size)
        inputs, targets = held_out_passkeys(
            numbers[chosen], places[chosen], length=case.window, digits=digits
        )
        found.append((predicted(tf.constant(inputs)).numpy() == targets[:, -digits:]).all(axis=1))
        progress.update(len(inputs))
    return np.concatenate(found).reshape(len(depths), examples)


def digits_of(run: Run) -> int:
    """Of the keys that a run was trained on, or of the default ones."""
    return run.config.data.digits if isinstance(run.config.data, PasskeyConfig) else PasskeyConfig.digits


def row_of(case: Case, depth: float, found: np.ndarray) -> dict:
    return {
        "run": str(case.run.path),
        "step": case.run.manifest["step"],
        "context_length": case.run.trained_length,
        "digits": digits_of(case.run),
        "length": case.window,
        "depth": float(depth),
        "examples": len(found),
        "accuracy": float(found.mean()),
    }


def by_length(rows: list[dict]) -> list[list[dict]]:
    """The rows of each run and length together."""
    groups = itertools.groupby(rows, key=lambda row: (row["run"], row["length"]))
    return [list(group) for _, group in groups]


def table_rows(rows: list[dict]) -> list[dict]:
    """One for each run and length, with the accuracy at each depth and at all of them."""
    return [
        {
            **{name: group[0][name] for name in ("run", "context_length", "length")},
            **{f"{row['depth']:.0%}": f"{row['accuracy']:.0%}" for row in group},
            "all": f"{accuracy_of(group):.1%}",
        }
        for group in by_length(rows)
    ]


def accuracy_of(rows: list[dict]) -> float:
    """The mean over rows of as many examples each."""
    return float(np.mean([row["accuracy"] for row in rows]))


def publish(rows: list[dict], path: Path) -> None:
    """Draws the runs that have learned the task where they were trained, and tells which have not."""
    panels = []
    for run, of_run in itertools.groupby(rows, key=lambda row: row["run"]):
        groups = by_length(list(of_run))
        trained = next(group for group in groups if group[0]["length"] == group[0]["context_length"])
        accuracy, length = accuracy_of(trained), trained[0]["length"]
        if accuracy < LEARNED:
            print_error(
                f"{run} has not learned the task at its trained length {length:,}: it finds {accuracy:.1%} "
                f"of the keys there, below {LEARNED:.0%}. There is no heat map of it"
            )
        else:
            panels.append(panel_of(groups))
    if panels:
        write(panels, path)


def panel_of(groups: list[list[dict]]) -> dict:
    """Of the rows of a run, by length."""
    first = groups[0][0]
    return {
        "label": f"{first['run']}, trained at {first['context_length']:,}",
        "lengths": [group[0]["length"] for group in groups],
        "depths": [row["depth"] for row in groups[0]],
        "accuracies": np.transpose([[row["accuracy"] for row in group] for group in groups]),
    }


def write(panels: list[dict], path: Path) -> None:
    try:
        plot_passkey(panels, path)
    except OSError as error:
        raise RunError(f"cannot write {path} ({reason(error)})") from error
    print_error(f"wrote {path}")
