"""Checkpoints: named tensors and a manifest, in a directory that is complete or absent."""

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from system.errors import DivergedError, RunError, reason
from system.files import delete, replacing, sha256_of, sync
from system.text import print_note

TENSORS = "tensors"
CHECKPOINT = r"step-[0-9]{8,}"
FORMAT = 3
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"


class Checkpoints:
    """Checkpoints of a run: directories `step-00000500` and so on; the first save creates their parent.

    A checkpoint holds everything that the next step depends on: weights and optimizer variables by name.
    There is no random state, and the position in the data is the step. The `keep` latest ones are kept, and
    with `keep_best` that of the lowest `validation_loss`.
    """

    def __init__(self, directory: Path, model: keras.Model, optimizer, *, keep: int, keep_best=False):
        self.directory = directory
        self.variables = model_variables(model)
        self.variables |= {f"optimizer/{variable.path}": variable for variable in optimizer.variables}
        self.keep, self.keep_best = keep, keep_best
        self._damaged: set[Path] = set()  # checkpoints that restoring has skipped

    def save(self, step: int, facts: dict) -> Path:
        """Writes the checkpoint of `step`, with `facts` (JSON values) in its manifest.

        RunError or DivergedError, if it cannot be written or a value is not finite; nothing has changed then.
        """
        check_finite(step, self.variables)
        path = self.directory / directory_name(step)
        try:
            self.directory.mkdir(exist_ok=True)
            with replacing(path, remove=remove) as temporary:
                temporary.mkdir()
                tf.raw_ops.SaveV2(
                    prefix=str(temporary / TENSORS),
                    tensor_names=list(self.variables),
                    shape_and_slices=[""] * len(self.variables),
                    tensors=[tf.convert_to_tensor(variable.value) for variable in self.variables.values()],
                )
                write_manifest(temporary, {"step": step, **facts, "tensors": specs(self.variables)})
            sync(self.directory.parent)
        except (OSError, tf.errors.OpError) as error:
            raise RunError(
                f"cannot write the checkpoint of step {step:,} in {self.directory} ({reason(error)}); "
                "earlier checkpoints are unchanged. Make the directory writable, with free space, and run "
                "the same command to resume."
            ) from error
        self._damaged.discard(path)
        # During skipped steps nothing is removed: the run may have to return to a checkpoint before them.
        if not facts.get("bad_steps", {}).get("in_a_row"):
            self._remove_superseded(step)
        return path

    def _remove_superseded(self, step: int) -> None:
        """Removes checkpoints up to `step` that need not be kept; damaged ones do not count as kept."""
        paths = [path for path in complete_checkpoints(self.directory) if step_of(path) <= step]
        undamaged = [path for path in paths if path not in self._damaged]
        keep = undamaged[-self.keep :]
        best = min(undamaged, key=validation_loss)
        if self.keep_best and validation_loss(best) < math.inf:
            keep.append(best)
        for path in paths:
            if path not in keep:
                remove(path)

    def restore_latest(self, *, is_new: bool = True) -> dict | None:
        """Restores the latest undamaged checkpoint and returns its manifest; None if a new run has none."""
        for partial in self.directory.glob(".step-*.partial"):
            delete(partial)  # a crash left it half-written or half-removed
        if is_new and not complete_checkpoints(self.directory):
            return None
        try:
            path, manifest = read_latest_manifest(self.directory.parent)
            restore(path, manifest, self.variables)
        except RunError as error:
            raise RunError(f"{error}. To start a new run, use name=NEW.") from error
        later = (each for each in complete_checkpoints(self.directory) if step_of(each) > manifest["step"])
        self._damaged = set(later)
        return manifest

    def go_back(self, step: int) -> int | None:
        """Removes checkpoints after `step`, restores the latest one left and returns its step."""
        for path in complete_checkpoints(self.directory):
            if step_of(path) > step:
                remove(path)
        manifest = self.restore_latest()
        return None if manifest is None else manifest["step"]


def read_latest_manifest(run_directory: Path, *, step: int | None = None) -> tuple[Path, dict]:
    """Path and verified manifest of the latest undamaged checkpoint, or of that of `step`, or RunError."""
    directory = run_directory / "checkpoints"
    paths = {step_of(path): path for path in reversed(complete_checkpoints(directory))}
    if not paths:
        raise RunError(f"{run_directory} has no checkpoint: restore {directory}/step-*, or delete the run")
    if step is not None:
        if step not in paths:
            steps = ", ".join(map(str, sorted(paths)))
            raise RunError(f"{run_directory} has no checkpoint of step {step}; available steps: {steps}")
        paths = {step: paths[step]}
    problems = []
    for path in paths.values():
        try:
            manifest = read_manifest(path)
        except RunError as error:
            problems.append(f"{path}: {error}")
            continue
        for problem in problems:
            print_note(f"skipped {problem}")
        return path, manifest
    others = f" (and {len(problems) - 1} earlier)" if problems[1:] else ""
    raise RunError(f"no checkpoint can be restored: {problems[0]}{others}")


def recorded_config(directory: Path) -> dict:
    """`config` in the latest undamaged manifest; empty if there is none. Reads no other file."""
    for path in reversed(complete_checkpoints(directory)):
        with contextlib.suppress(RunError):
            return read_manifest(path, verify_files=False).get("config", {})
    return {}


def restore_weights(run_directory: Path, model: keras.Model, *, step: int | None = None) -> dict:
    """Restores a model from a checkpoint of a run, without the optimizer, and returns the manifest."""
    path, manifest = read_latest_manifest(run_directory, step=step)
    restore(path, manifest, model_variables(model), prefix="model/")
    return manifest


def complete_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints from earliest to latest; anything else in the directory is ignored."""
    try:
        names = os.listdir(directory) if os.path.lexists(directory) else []
    except OSError as error:  # also for a broken link, so that the run does not start from scratch
        raise RunError(f"{directory} cannot be read ({reason(error)})") from error
    paths = (directory / name for name in names if re.fullmatch(CHECKPOINT, name))
    return sorted(filter(Path.is_dir, paths), key=step_of)


def restore(path: Path, manifest: dict, variables: dict[str, keras.Variable], *, prefix: str = "") -> None:
    """Assigns the tensors whose names begin with `prefix`; RunError before that if any does not fit."""
    found = {name: spec for name, spec in manifest["tensors"].items() if name.startswith(prefix)}
    expected = specs(variables)
    differing = [name for name in found | expected if found.get(name) != expected.get(name)]
    if differing:
        first, others = differing[0], f" (and {len(differing) - 1} more)" if differing[1:] else ""
        raise RunError(
            f"{path} does not fit: {first} is {found.get(first, 'missing')}, expected "
            f"{expected.get(first, 'no such tensor')}{others}"
        )
    with without_wildcards(path) as directory:
        reader = tf.train.load_checkpoint(str(directory / TENSORS))
        for name, variable in variables.items():
            variable.assign(reader.get_tensor(name))


@contextlib.contextmanager
def without_wildcards(directory: Path) -> Iterator[Path]:
    """Path of `directory`, through a link if TensorFlow's reader would take its name for a pattern."""
    if not set(str(directory)) & set("*?[\\"):
        yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary, "checkpoint")
        link.symlink_to(directory.absolute())
        yield link


def specs(variables: dict[str, keras.Variable]) -> dict[str, str]:
    """Dtype and shape by name, such as `float32[7,6]`."""
    return {
        name: f"{tf.as_dtype(variable.dtype).name}[{','.join(map(str, variable.shape))}]"
        for name, variable in variables.items()
    }


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    return {f"model/{variable.path}": variable for variable in model.variables}


def check_finite(step: int, variables: dict[str, keras.Variable]) -> None:
    for name, variable in variables.items():
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            raise DivergedError(f"step {step:,}: {name} is not finite", good_step=step - 1)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint; a crash in between leaves only a `.partial` directory."""
    renamed = checkpoint.with_name(f".{checkpoint.name}.old.partial")
    os.replace(checkpoint, renamed)
    delete(renamed)


def directory_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """Step in the name of a checkpoint; names alone sort wrongly from 100,000,000 steps on."""
    return int(directory.name.removeprefix("step-"))


def write_manifest(directory: Path, facts: dict) -> None:
    """Writes `facts` (JSON values) and the SHA-256 of each file, and the SHA-256 of the manifest itself."""
    files = {path.name: sha256_of(path) for path in sorted(directory.iterdir())}
    manifest = directory / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, **facts, "files": files}, indent=1) + "\n")
    (directory / DIGEST).write_text(f"{sha256_of(manifest)}  {MANIFEST}\n")


def read_manifest(directory: Path, *, verify_files: bool = True) -> dict:
    """Verified manifest of a checkpoint and, with `verify_files`, of its files; RunError if it is damaged."""
    try:
        if (directory / DIGEST).read_bytes() != f"{sha256_of(directory / MANIFEST)}  {MANIFEST}\n".encode():
            raise RunError(f"{MANIFEST} is damaged: its SHA-256 is not the one in {DIGEST}")
        manifest = json.loads((directory / MANIFEST).read_text())
        if (manifest["format"], manifest["step"]) != (FORMAT, step_of(directory)):
            raise RunError(
                f"{MANIFEST} has format {manifest['format']} and step {manifest['step']}, expected format "
                f"{FORMAT} and step {step_of(directory)}"
            )
        for name, digest in manifest["files"].items() if verify_files else ():
            if sha256_of(directory / name) != digest:
                raise RunError(f"{name} is damaged: its SHA-256 is not the one in {MANIFEST}")
    except OSError as error:
        raise RunError(f"a file is missing or cannot be read ({error})") from error
    return manifest


def validation_loss(checkpoint: Path) -> float:
    """Validation loss in the manifest of a checkpoint; infinity if it has none or cannot be read."""
    try:
        loss = json.loads((checkpoint / MANIFEST).read_text()).get("validation_loss")
    except (OSError, ValueError):
        return math.inf
    return loss if isinstance(loss, float) and math.isfinite(loss) else math.inf
