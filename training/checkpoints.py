"""Checkpoints: named tensors and a manifest, in a directory that appears whole or not at all."""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from system.errors import RunError, reason
from system.files import sync
from training.divergence import check_finite
from training.manifest import directory_name, read_manifest, step_of, verify, write_manifest

Report = Callable[[str], None]

TENSORS = "tensors"
PARTIAL = ".partial"
MAX_NAMED = 4


class Checkpoints:
    """The checkpoints of a run, `step-00000500` and so on in `directory`.

    Holds all that the next step depends on: weights and optimizer variables by name. There is no random
    state, and the position in the data is the step.

    Args:
        directory: is made by the first save, in that of the run.
        model: its variables are saved as `model/...`.
        optimizer: built; its variables are saved as `optimizer/...`.
        keep: how many of the latest stay.
        keep_best: whether the one of the lowest `validation_loss` stays too.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        keep: int,
        keep_best: bool = False,
    ):
        self.directory = directory
        self.variables = named_variables("model", model) | named_variables("optimizer", optimizer)
        self.keep, self.keep_best = keep, keep_best
        self._skipped: set[Path] = set()  # that could not be read when this run went on from an earlier one

    def save(self, step: int, facts: dict) -> Path:
        """Writes the checkpoint of `step`; `facts` (plain values) go into its manifest.

        It is written aside and renamed when it is complete and on disk.

        Raises:
            RunError: if it cannot be written; the earlier ones are as they were.
            OSError: if it is written, and one that it supersedes cannot be removed.
            DivergedError: if a value is not finite; it is not written.
        """
        check_finite(step, self.variables)
        final = self.directory / directory_name(step)
        try:
            self._clear()
            self._write(final, {"step": step, **facts})
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(_aside(final), ignore_errors=True)
            raise RunError(
                f"cannot write the checkpoint of step {step:,} in {self.directory} ({reason(error)}); "
                "earlier ones are untouched. Make room, and the same command goes on from the latest."
            ) from error
        self._skipped.discard(final)
        # Amid bad steps all stay: the run may have to go back to before them.
        if not facts.get("bad_steps", {}).get("in_a_row"):
            for old in self._superseded(final):
                _remove(old)
        return final

    def _clear(self) -> None:
        """Removes what a crash has left half-written or half-removed."""
        for half in self.directory.glob(f"*{PARTIAL}"):
            shutil.rmtree(half)

    def _write(self, final: Path, facts: dict) -> None:
        aside = _aside(final)
        self.directory.mkdir(exist_ok=True)
        aside.mkdir()
        tf.raw_ops.SaveV2(
            prefix=str(aside / TENSORS),
            tensor_names=list(self.variables),
            shape_and_slices=[""] * len(self.variables),
            tensors=[tf.convert_to_tensor(variable.value) for variable in self.variables.values()],
        )
        write_manifest(aside, {**facts, "tensors": _described(self.variables)})
        for path in [*aside.iterdir(), aside]:
            sync(path)
        if final.exists():
            _remove(final)
        os.replace(aside, final)
        for path in (self.directory, self.directory.parent):
            sync(path)

    def _superseded(self, latest: Path) -> list[Path]:
        """Checkpoints that need not stay beside the latest."""
        paths, step = complete_checkpoints(self.directory), step_of(latest)
        until_now = [path for path in paths if step_of(path) <= step]
        whole = [path for path in until_now if path not in self._skipped]
        kept = whole[-self.keep :]
        if self.keep_best and (losses := _validation_losses(whole)):
            kept.append(min(losses, key=losses.get))
        return [path for path in until_now if path not in kept]

    def go_back(self, step: int) -> int | None:
        """Forgets the checkpoints of later steps; the step of the latest that is left and whole, if any."""
        for path in complete_checkpoints(self.directory):
            if step_of(path) > step:
                _remove(path)
        manifest = self.restore_latest()
        return None if manifest is None else manifest["step"]

    def restore_latest(self, report: Report = print) -> dict | None:
        """Restores the latest checkpoint that can be read and returns its manifest; None if there are none.

        Raises:
            RunError: if there are checkpoints and none can be read or fits.
        """
        self._clear()
        paths = complete_checkpoints(self.directory)
        if not paths:
            return None
        try:
            manifest = restore_latest(self.directory, self.variables, report=report)
        except RunError as error:
            raise RunError(f"{error}. Use name= for a new run.") from error
        self._skipped = {path for path in paths if step_of(path) > manifest["step"]}
        return manifest


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
    paths = {step_of(path): path for path in complete_checkpoints(directory)}
    if step not in paths:
        known = ", ".join(map(str, paths)) or "none"
        raise RunError(f"{run_directory} has no checkpoint of step {step}; choose one that it has: {known}")
    try:
        return restore(paths[step], variables, prefix="model/")
    except RunError as error:
        raise RunError(f"no checkpoint can be restored: {paths[step]}: {error}") from error


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
            manifest = restore(path, variables, prefix=prefix)
        except RunError as error:
            problems.append(f"{path}: {error}")
            continue
        for problem in problems:
            report(f"skipped {problem}")
        return manifest
    others = f" (and {len(problems) - 1} earlier)" if problems[1:] else ""
    raise RunError(f"no checkpoint can be restored: {problems[0]}{others}")


def complete_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints from oldest to latest.

    Raises:
        RunError: if there is a directory, or a link to one, that cannot be read: it is not taken for an empty
            one, from which a run would begin anew.
    """
    try:
        names = os.listdir(directory) if os.path.lexists(directory) else []
    except OSError as error:
        raise RunError(f"{directory} cannot be read ({reason(error)})") from error
    paths = (directory / name for name in names if re.fullmatch(r"step-[0-9]+", name))
    return sorted(paths, key=step_of)


def restore(path: Path, variables: dict[str, keras.Variable], *, prefix: str = "") -> dict:
    """Assigns the tensors of a checkpoint whose names begin with `prefix`, and returns its manifest.

    They must be exactly `variables`, and every file as it was written; nothing is assigned before.

    Raises:
        RunError: naming the file that is damaged, or what is missing, unexpected or of another shape.
    """
    manifest = read_manifest(path)
    verify(path, manifest)
    wanted = _described(variables)
    if "tensors" in manifest:
        _check_tensors(_starting_with(prefix, manifest["tensors"]), wanted)
    try:
        reader = tf.train.load_checkpoint(str(path / TENSORS))
        dtypes = reader.get_variable_to_dtype_map()
        found = {
            name: _description(dtypes[name], shape)
            for name, shape in reader.get_variable_to_shape_map().items()
        }
        _check_tensors(_starting_with(prefix, found), wanted)
        values = {name: reader.get_tensor(name) for name in variables}
    except RunError:
        raise
    # A damaged file raises one of many classes.
    except Exception as error:
        raise RunError(f"its {TENSORS} cannot be read ({reason(error)})") from error
    for name, variable in variables.items():
        variable.assign(values[name])
    return manifest


def _described(variables: dict[str, keras.Variable]) -> dict[str, str]:
    """Type and shape by name."""
    return {name: _description(variable.dtype, variable.shape) for name, variable in variables.items()}


def _description(dtype, shape) -> str:
    return f"{tf.as_dtype(dtype).name}[{','.join(map(str, shape))}]"


def _starting_with(prefix: str, named: dict) -> dict:
    return {name: value for name, value in named.items() if name.startswith(prefix)}


def _check_tensors(found: dict[str, str], wanted: dict[str, str]) -> None:
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    problems = [
        *(f"it lacks {name}" for name in missing),
        *(f"it has an unexpected {name}" for name in extra),
        *(f"{name} is {found[name]}, expected {wanted[name]}" for name in other),
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


def _validation_losses(checkpoints: list[Path]) -> dict[Path, float]:
    """Of those checkpoints that record one."""
    losses = {}
    for path in checkpoints:
        with contextlib.suppress(RunError):  # damaged
            losses[path] = read_manifest(path).get("validation_loss")
    return {path: loss for path, loss in losses.items() if isinstance(loss, float) and math.isfinite(loss)}


def _aside(final: Path) -> Path:
    return final.with_name(final.name + PARTIAL)


def _remove(checkpoint: Path) -> None:
    """A crash meanwhile leaves nothing that looks like a checkpoint."""
    aside = checkpoint.with_name(f"{checkpoint.name}.old{PARTIAL}")
    os.replace(checkpoint, aside)
    shutil.rmtree(aside)
