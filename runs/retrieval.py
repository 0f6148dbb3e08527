"""How many passkeys a language model finds, by length of context and depth of the key."""

import itertools
from operator import itemgetter
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from data.config import PasskeyConfig
from data.passkeys import check_room, held_out_passkeys
from models.config import TransformerLMConfig
from runs.load import load_model
from runs.plots import plot_passkeys
from runs.window_cases import Case, Run, check_run, model_of
from runs.window_cost import batch_size_of
from system.errors import RunError, reason
from system.terminal import print_error

LEARNED = 0.9


def load_runs(paths: list[Path]) -> list[Run]:
    return [Run(path, *load_model(path, of=TransformerLMConfig)) for path in paths]


def retrieve(
    runs: list[Run], lengths: list[int], *, depths: int, examples: int, scalings: list[str]
) -> list[dict]:
    """A row for each run, each of `none` and `scalings`, each length and each depth.

    The lengths are those given and the one that a run was trained at.

    Every depth has the same keys and filler, and so has every run with keys of as many digits.

    Args:
        runs: of language models.
        lengths: of context, in tokens.
        depths: how many, evenly spread from the beginning of the text to its question.
        examples: texts of each length and depth.
        scalings: types of `RopeScalingConfig` to apply without training.

    Raises:
        RunError, DataError: for what cannot be measured, before anything is.
    """
    lengths_of = {run: sorted({*lengths, run.trained_length}) for run in runs}
    for run, of_run in lengths_of.items():
        check_room(length=of_run[0], digits=digits_of(run))
        check_run(run, of_run, scalings=scalings, attention="full")
    variants = [(run, scaling) for run in runs for scaling in ("none", *scalings)]
    cases = [Case(run, scaling, length) for run, scaling in variants for length in lengths_of[run]]
    places = np.linspace(0, 1, depths)
    found = measure(list(dict.fromkeys(case.measured for case in cases)), places, examples=examples)
    return [
        row_of(case, depth, of_depth)
        for case in cases
        for depth, of_depth in zip(places, found[case.measured], strict=True)
    ]


def measure(cases: list[Case], depths: np.ndarray, *, examples: int) -> dict[Case, np.ndarray]:
    """What `keys_found` says of each case."""
    batch_sizes = {case: batch_size_of(case) for case in cases}
    found = {}
    try:
        with tqdm(total=len(cases) * len(depths) * examples, disable=None) as progress:
            for case, batch_size in batch_sizes.items():
                progress.set_description(f"{case.run.path} {case.scaling} {case.window:,}")
                found[case] = keys_found(
                    case, depths, examples=examples, batch_size=batch_size, progress=progress
                )
    except tf.errors.ResourceExhaustedError as error:
        raise RunError(f"these lengths do not fit in memory ({reason(error)}). Use shorter ones") from error
    return found


def keys_found(
    case: Case, depths: np.ndarray, *, examples: int, batch_size: int, progress: tqdm
) -> np.ndarray:
    """(depths, examples) booleans: whether the likeliest digits, one after the other, are the key.

    One pass with the key in place tells: as long as greedy decoding is right, this is what it has read.
    """
    digits = digits_of(case.run)
    model = model_of(case)

    @tf.function(jit_compile=case.run.config.compile == "xla")
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
        "zero_shot": case.scaling,
        "factor": case.factor,
        "length": case.window,
        "depth": float(depth),
        "examples": len(found),
        "accuracy": float(found.mean()),
    }


def by_length(rows: list[dict]) -> list[list[dict]]:
    """The rows of each run, scaling and length together."""
    return grouped(rows, "run", "zero_shot", "length")


def grouped(rows: list[dict], *names: str) -> list[list[dict]]:
    """Neighbours that have the same values of these names together."""
    return [list(group) for _, group in itertools.groupby(rows, key=itemgetter(*names))]


def table_rows(rows: list[dict]) -> list[dict]:
    """One for each run, scaling and length, with the accuracy at each depth and at all of them."""
    return [
        {
            **{name: group[0][name] for name in ("run", "context_length", "zero_shot", "length")},
            **{f"{row['depth']:.0%}": f"{row['accuracy']:.0%}" for row in group},
            "all": f"{accuracy_of(group):.1%}",
        }
        for group in by_length(rows)
    ]


def accuracy_of(rows: list[dict]) -> float:
    """The mean over rows of as many examples each."""
    return float(np.mean([row["accuracy"] for row in rows]))


def publish(rows: list[dict], path: Path) -> None:
    """Draws the runs that have learned the task where they were trained, and tells which have not.

    A picture of an earlier time goes, where there is none to take its place.
    """
    panels = []
    for of_run in grouped(rows, "run"):
        run, length = of_run[0]["run"], of_run[0]["context_length"]
        accuracy = accuracy_of([row for row in of_run if row["length"] == length])
        if accuracy < LEARNED:
            print_error(
                f"{run} has not learned the task at its trained length {length:,}: it finds {accuracy:.1%} "
                f"of the keys there, below {LEARNED:.0%}. There is no heat map of it"
            )
        else:
            panels += map(panel_of, grouped(of_run, "zero_shot"))
    try:
        replace_picture(panels, path)
    except OSError as error:
        raise RunError(f"cannot write {path} ({reason(error)})") from error


def panel_of(rows: list[dict]) -> dict:
    """Of the rows of a run under one scaling."""
    first, groups = rows[0], by_length(rows)
    label = f"{first['run']}, trained at {first['context_length']:,}"
    return {
        "label": label if first["zero_shot"] == "none" else f"{label}, {first['zero_shot']}",
        "lengths": [group[0]["length"] for group in groups],
        "depths": [row["depth"] for row in groups[0]],
        "accuracies": np.transpose([[row["accuracy"] for row in group] for group in groups]),
    }


def replace_picture(panels: list[dict], path: Path) -> None:
    if panels:
        plot_passkeys(panels, path)
        print_error(f"wrote {path}")
    elif path.exists():
        path.unlink()
        print_error(f"removed {path}, drawn of an earlier measurement")
