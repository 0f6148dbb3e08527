"""Checkpoints: named tensors and a manifest, in a directory that appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from training.errors import RunError, reason

Report = Callable[[str], None]

FORMAT_VERSION = 1
TENSORS = "tensors"
MANIFEST = "manifest.json"
PARTIAL = ".partial"
MAX_NAMED = 4


class Checkpoints:
    """The checkpoints of a run, `step-00000500` and so on in `directory`.

    Holds all that the next step depends on: weights and optimizer variables by name. There is no random
    state, and the position in the data is the step.

    Args:
        directory: is made by the first save.
        model: its variables are saved as `model/...`.
        optimizer: built; its variables are saved as `optimizer/...`.
        keep: how many of the latest stay.
    """

    def __init__(
        self, directory: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, *, keep: int
    ):
        self.directory = directory
        self.variables = named_variables("model", model) | named_variables("optimizer", optimizer)
        self.keep = keep

    def save(self, step: int, facts: dict) -> Path:
        """Writes the checkpoint of `step`; `facts` (plain values) go into its manifest.

        It is written aside and renamed when it is complete and on disk.

        Raises:
            RunError: if it cannot be written; the earlier ones are as they were.
        """
        final = self.directory / f"step-{step:08d}"
        try:
            for left_by_a_crash in self.directory.glob(f"*{PARTIAL}"):
                shutil.rmtree(left_by_a_crash)
            self._write(final, {"format": FORMAT_VERSION, "step": step, **facts})
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(_aside(final), ignore_errors=True)
            raise RunError(
                f"cannot write the checkpoint of step {step:,} in {self.directory} ({reason(error)}); "
                "earlier ones are untouched. Make room, and the same command goes on from the latest."
            ) from error
        # Later ones could not be read when this run went on from an earlier one: they do not count.
        until_now = [path for path in complete_checkpoints(self.directory) if path.name <= final.name]
        for old in until_now[: -self.keep]:
            shutil.rmtree(old)
        return final

    def _write(self, final: Path, manifest: dict) -> None:
        aside = _aside(final)
        aside.mkdir(parents=True)
        tf.raw_ops.SaveV2(
            prefix=str(aside / TENSORS),
            tensor_names=list(self.variables),
            shape_and_slices=[""] * len(self.variables),
            tensors=[variable.value for variable in self.variables.values()],
        )
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for path in [*aside.iterdir(), aside]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        _sync(self.directory)

    def restore_latest(self, report: Report = print) -> dict | None:
        """Restores the latest checkpoint that can be read and returns its manifest; None if there are none.

        Raises:
            RunError: if there are checkpoints and none can be read or fits.
        """
        if not complete_checkpoints(self.directory):
            return None
        try:
            return restore_latest(self.directory, self.variables, report=report)
        except RunError as error:
            raise RunError(f"{error}. Use name= for a new run.") from error


def restore_weights(
    run_directory: Path, model: keras.Model, *, step: int | None = None, report: Report = print
) -> dict:
    """Restores the model from a checkpoint of a run, without the optimizer; returns the manifest.

    Args:
        step: of the checkpoint; None for the latest that can be read.

    Raises:
        RunError: if the run has no such checkpoint, it cannot be read, or its weights are not those of the
            model.
    """
    directory, variables = run_directory / "checkpoints", named_variables("model", model)
    if step is None:
        return restore_latest(directory, variables, prefix="model/", report=report)
    paths = {int(path.name.removeprefix("step-")): path for path in complete_checkpoints(directory)}
    if step not in paths:
        known = ", ".join(map(str, paths)) or "none"
        raise RunError(f"{run_directory} has no checkpoint of step {step}; choose one that it has: {known}")
    try:
        manifest = read_manifest(paths[step])
        restore(paths[step], variables, prefix="model/")
    except RunError as error:
        raise RunError(f"no checkpoint can be restored: {paths[step]}: {error}") from error
    return manifest


def restore_latest(
    directory: Path, variables: dict[str, keras.Variable], *, report: Report, prefix: str = ""
) -> dict:
    """Restores the latest checkpoint that can be read, as `restore` does; returns its manifest.

    Args:
        report: told of each later one that was skipped, and why.

    Raises:
        RunError: if there is none, or why none can be restored.
    """
    paths = complete_checkpoints(directory)
    if not paths:
        raise RunError(f"{directory.parent} has no checkpoint; expected {directory}/step-*.")
    problems = []
    for path in reversed(paths):
        try:
            manifest = read_manifest(path)
            restore(path, variables, prefix=prefix)
        except RunError as error:
            problems.append(f"{path}: {error}")
            continue
        for problem in problems:
            report(f"skipped {problem}")
        return manifest
    others = f" (and {len(problems) - 1} earlier)" if problems[1:] else ""
    raise RunError(f"no checkpoint can be restored: {problems[0]}{others}")


def complete_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints from oldest to latest."""
    return sorted(path for path in directory.glob("step-*") if path.name.removeprefix("step-").isdigit())


def read_manifest(path: Path) -> dict:
    """The manifest of a checkpoint.

    Raises:
        RunError: if it is damaged or of another format.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"its {MANIFEST} cannot be read ({reason(error)})") from error
    if found != FORMAT_VERSION:
        raise RunError(f"it has format {found}, this program reads {FORMAT_VERSION}")
    return manifest


def restore(path: Path, variables: dict[str, keras.Variable], *, prefix: str = "") -> None:
    """Assigns the tensors of a checkpoint whose names begin with `prefix`; they must be exactly `variables`.

    Raises:
        RunError: naming what is missing, unexpected or of another shape, or why it cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(str(path / TENSORS))
        shapes = {
            name: tuple(shape)
            for name, shape in reader.get_variable_to_shape_map().items()
            if name.startswith(prefix)
        }
        _check_names(shapes, variables)
        values = {name: reader.get_tensor(name) for name in variables}
    except RunError:
        raise
    # A damaged file raises one of many classes.
    except Exception as error:
        raise RunError(f"its {TENSORS} cannot be read ({reason(error)})") from error
    for name, variable in variables.items():
        variable.assign(values[name])


def _check_names(shapes: dict[str, tuple], variables: dict[str, keras.Variable]) -> None:
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    missing, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    problems = [
        *(f"it lacks {name}" for name in missing),
        *(f"it has an unexpected {name}" for name in extra),
        *(f"{name} has shape {shapes[name]}, expected {wanted[name]}" for name in other),
    ]
    if problems:
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise RunError("; ".join(problems[:MAX_NAMED]) + more)


def named_variables(prefix: str, owner) -> dict[str, keras.Variable]:
    """Variables of a model or an optimizer by `prefix/path`."""
    named = {f"{prefix}/{variable.path}": variable for variable in owner.variables}
    if len(named) != len(owner.variables):
        raise ValueError(f"two variables of {owner.name} have the same path.")
    return named


def _aside(final: Path) -> Path:
    return final.with_name(final.name + PARTIAL)


def _sync(path: Path) -> None:
    """Waits until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
