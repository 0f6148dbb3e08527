"""Checkpoints: named tensors and a manifest, in a directory that appears whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from training.errors import RunError

FORMAT_VERSION = 1
TENSORS = "tensors"
MANIFEST = "manifest.json"


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
        """
        final = self.directory / f"step-{step:08d}"
        aside = self.directory / f"{final.name}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        tf.raw_ops.SaveV2(
            prefix=str(aside / TENSORS),
            tensor_names=list(self.variables),
            shape_and_slices=[""] * len(self.variables),
            tensors=[variable.value for variable in self.variables.values()],
        )
        (aside / MANIFEST).write_text(
            json.dumps({"format": FORMAT_VERSION, "step": step, **facts}, indent=1) + "\n"
        )
        for path in [*aside.iterdir(), aside]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        _sync(self.directory)
        for old in complete_checkpoints(self.directory)[: -self.keep]:
            shutil.rmtree(old)
        return final

    def restore_latest(self, report=print) -> dict | None:
        """Restores the latest checkpoint that can be read and returns its manifest; None if there are none.

        Raises:
            RunError: if there are checkpoints and none can be read.
        """
        paths = complete_checkpoints(self.directory)
        for path in reversed(paths):
            try:
                manifest = read_manifest(path)
                restore(path, self.variables)
                return manifest
            except RunError as error:
                report(f"skipped {path}: {error}")
        if paths:
            raise RunError(
                f"{self.directory} holds checkpoints, and none can be read. Use name= for a new run."
            )
        return None


def restore_weights(run_directory: Path, model: keras.Model) -> dict:
    """Restores the model from the latest checkpoint of a run, without the optimizer; returns the manifest.

    Raises:
        RunError: if the run has no checkpoint, or its weights are not those of the model.
    """
    paths = complete_checkpoints(run_directory / "checkpoints")
    if not paths:
        raise RunError(f"{run_directory} has no checkpoint; expected {run_directory / 'checkpoints'}/step-*.")
    manifest = read_manifest(paths[-1])
    restore(paths[-1], named_variables("model", model), prefix="model/")
    return manifest


def complete_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints from oldest to latest."""
    return sorted(path for path in directory.glob("step-*") if path.suffix != ".partial")


def read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"its {MANIFEST} cannot be read ({error})") from error
    if manifest.get("format") != FORMAT_VERSION:
        raise RunError(f"it has format {manifest.get('format')}, this program reads {FORMAT_VERSION}")
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
        raise RunError(f"{path / TENSORS} cannot be read ({str(error).splitlines()[0]})") from error
    for name, variable in variables.items():
        variable.assign(values[name])


def _check_names(shapes: dict[str, tuple], variables: dict[str, keras.Variable]) -> None:
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    missing, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    problems = [
        *(f"it lacks {name}" for name in missing[:3]),
        *(f"it has an unexpected {name}" for name in extra[:3]),
        *(f"{name} has shape {shapes[name]}, expected {wanted[name]}" for name in other[:3]),
    ]
    if problems:
        raise RunError("; ".join(problems))


def named_variables(prefix: str, owner) -> dict[str, keras.Variable]:
    """Variables of a model or an optimizer by `prefix/path`."""
    named = {f"{prefix}/{variable.path}": variable for variable in owner.variables}
    if len(named) != len(owner.variables):
        raise ValueError(f"two variables of {owner.name} have the same path.")
    return named


def _sync(path: Path) -> None:
    """Waits until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
