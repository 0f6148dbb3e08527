"""Checkpoints: named tensors and a manifest, in a directory that is complete or absent."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf

from system.errors import DivergedError, RunError, reason
from system.files import sync

Report = Callable[[str], None]

TENSORS = "tensors"
PARTIAL = ".partial"
MAX_PROBLEMS = 4
FORMAT = 3
MANIFEST, DIGEST = "manifest.json", "manifest.sha256"


class Checkpoints:
    """Checkpoints of a run: directories `step-00000500` and so on.

    A checkpoint holds everything that the next step depends on: weights and optimizer variables by name.
    There is no random state, and the position in the data is the step.

    Args:
        directory: created by the first save.
        model: its variables are saved as `model/...`.
        optimizer: built; its variables are saved as `optimizer/...`.
        keep: number of latest checkpoints to keep.
        keep_best: also keep the checkpoint of the lowest `validation_loss`.
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
        self._damaged: set[Path] = set()  # damaged checkpoints after the restored one

    def save(self, step: int, facts: dict) -> Path:
        """Writes the checkpoint of `step`, with `facts` (JSON values) in its manifest.

        Everything is written to another directory, which is synced and then renamed.

        Raises:
            RunError: if it cannot be written; earlier checkpoints are unchanged.
            OSError: if it is written, and a superseded one cannot be removed.
            DivergedError: if a value is not finite; nothing is written.
        """
        check_finite(step, self.variables)
        path = self.directory / directory_name(step)
        try:
            remove_partial(self.directory)
            self._write(path, {"step": step, **facts})
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(partial(path), ignore_errors=True)
            raise RunError(
                f"cannot write the checkpoint of step {step:,} in {self.directory} ({reason(error)}); "
                "earlier checkpoints are unchanged. Free some space and run the same command to resume."
            ) from error
        self._damaged.discard(path)
        # During skipped steps nothing is removed: the run may have to return to a checkpoint before them.
        if not facts.get("bad_steps", {}).get("in_a_row"):
            for superseded in self._superseded(step):
                remove(superseded)
        return path

    def _write(self, path: Path, facts: dict) -> None:
        temporary = partial(path)
        self.directory.mkdir(exist_ok=True)
        temporary.mkdir()
        tf.raw_ops.SaveV2(
            prefix=str(temporary / TENSORS),
            tensor_names=list(self.variables),
            shape_and_slices=[""] * len(self.variables),
            tensors=[tf.convert_to_tensor(variable.value) for variable in self.variables.values()],
        )
        write_manifest(temporary, {**facts, "tensors": specs(self.variables)})
        for written in [*temporary.iterdir(), temporary]:
            sync(written)
        if path.exists():
            remove(path)
        os.replace(temporary, path)
        sync(self.directory)
        sync(self.directory.parent)

    def _superseded(self, step: int) -> list[Path]:
        """Checkpoints up to `step` that need not be kept."""
        paths = [path for path in complete_checkpoints(self.directory) if step_of(path) <= step]
        intact = [path for path in paths if path not in self._damaged]
        keep = intact[-self.keep :]
        if self.keep_best and (losses := validation_losses(intact)):
            keep.append(min(losses, key=losses.get))
        return [path for path in paths if path not in keep]

    def restore_latest(self, report: Report = print) -> dict | None:
        """Restores the latest undamaged checkpoint and returns its manifest; None if there is none.

        Raises:
            RunError: if there are checkpoints and all are damaged, or the latest does not fit.
        """
        remove_partial(self.directory)
        paths = complete_checkpoints(self.directory)
        if not paths:
            return None
        try:
            path, manifest = latest_intact(paths, report)
            restore(path, manifest, self.variables)
        except RunError as error:
            raise RunError(f"{error}. To start a new run, use name=NEW.") from error
        self._damaged = {later for later in paths if step_of(later) > manifest["step"]}
        return manifest

    def go_back(self, step: int) -> int | None:
        """Removes checkpoints after `step`, restores the latest one left and returns its step."""
        for path in complete_checkpoints(self.directory):
            if step_of(path) > step:
                remove(path)
        manifest = self.restore_latest()
        return None if manifest is None else manifest["step"]


def read_latest_manifest(
    run_directory: Path, *, step: int | None = None, report: Report = print
) -> tuple[Path, dict]:
    """Path and verified manifest of the latest undamaged checkpoint of a run, or of the one of `step`.

    Args:
        report: called with one line for each damaged checkpoint that is skipped.

    Raises:
        RunError: if there is no such checkpoint, or it is damaged.
    """
    directory = run_directory / "checkpoints"
    paths = {step_of(path): path for path in complete_checkpoints(directory)}
    if not paths:
        raise RunError(f"{run_directory} has no checkpoint; expected {directory}/step-*.")
    if step is not None and step not in paths:
        steps = ", ".join(map(str, paths))
        raise RunError(f"{run_directory} has no checkpoint of step {step}; available steps: {steps}")
    return latest_intact(list(paths.values()) if step is None else [paths[step]], report)


def restore_weights(
    run_directory: Path, model: keras.Model, *, step: int | None = None, report: Report = print
) -> dict:
    """Restores a model from a checkpoint of a run, without the optimizer, and returns the manifest.

    Arguments and errors are those of `read_latest_manifest` and `restore`.
    """
    path, manifest = read_latest_manifest(run_directory, step=step, report=report)
    restore(path, manifest, named_variables("model", model), prefix="model/")
    return manifest


def latest_intact(paths: list[Path], report: Report) -> tuple[Path, dict]:
    """Latest undamaged one of `paths`, ordered by step, and its manifest; RunError if all are damaged."""
    problems = []
    for path in reversed(paths):
        try:
            manifest = read_manifest(path)
            check_files(path, manifest)
        except RunError as error:
            problems.append(f"{path}: {error}")
            continue
        for problem in problems:
            report(f"skipped {problem}")
        return path, manifest
    others = f" (and {len(problems) - 1} earlier)" if problems[1:] else ""
    raise RunError(f"no checkpoint can be restored: {problems[0]}{others}")


def complete_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints from earliest to latest.

    Raises:
        RunError: if the directory, or a link of its name, exists and cannot be read; a run that treated it as
            empty would start from scratch.
    """
    try:
        names = os.listdir(directory) if os.path.lexists(directory) else []
    except OSError as error:
        raise RunError(f"{directory} cannot be read ({reason(error)})") from error
    return sorted((directory / name for name in names if re.fullmatch(r"step-[0-9]+", name)), key=step_of)


def restore(path: Path, manifest: dict, variables: dict[str, keras.Variable], *, prefix: str = "") -> None:
    """Assigns the tensors of a verified checkpoint whose names begin with `prefix` to `variables`.

    Raises:
        RunError: naming tensors that are missing, unexpected or of another dtype or shape; none is assigned.
    """
    found = {name: spec for name, spec in manifest["tensors"].items() if name.startswith(prefix)}
    expected = specs(variables)
    problems = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if problems:
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise RunError(f"{path} does not fit: {'; '.join(problems[:MAX_PROBLEMS])}{more}")
    reader = tf.train.load_checkpoint(str(path / TENSORS))
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(name))


def specs(variables: dict[str, keras.Variable]) -> dict[str, str]:
    """Dtype and shape by name, such as `float32[7,6]`."""
    return {
        name: f"{tf.as_dtype(variable.dtype).name}[{','.join(map(str, variable.shape))}]"
        for name, variable in variables.items()
    }


def named_variables(prefix: str, owner) -> dict[str, keras.Variable]:
    """Variables of a model or an optimizer by `prefix/path`."""
    named = {f"{prefix}/{variable.path}": variable for variable in owner.variables}
    if len(named) != len(owner.variables):
        raise ValueError(f"two variables of {owner.name} have the same path.")
    return named


def check_finite(step: int, variables: dict[str, keras.Variable]) -> None:
    """Raises DivergedError naming the first variable that is not finite after `step`."""
    for name, variable in variables.items():
        value = tf.convert_to_tensor(variable.value)
        if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
            raise DivergedError(f"step {step:,}: {name} is not finite", good_step=step - 1)


def validation_losses(checkpoints: list[Path]) -> dict[Path, float]:
    """Finite validation losses of those checkpoints that record one."""
    losses = {}
    for path in checkpoints:
        with contextlib.suppress(RunError):  # damaged
            losses[path] = read_manifest(path).get("validation_loss")
    return {path: loss for path, loss in losses.items() if isinstance(loss, float) and math.isfinite(loss)}


def partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint; a crash in between leaves only a `.partial` directory."""
    renamed = partial(checkpoint.with_name(f"{checkpoint.name}.old"))
    os.replace(checkpoint, renamed)
    shutil.rmtree(renamed)


def remove_partial(directory: Path) -> None:
    """Removes checkpoints that a crash left half-written or half-removed."""
    for path in directory.glob(f"*{PARTIAL}"):
        shutil.rmtree(path)


def directory_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(directory: Path) -> int:
    """Step in the name of a checkpoint; names alone sort wrongly from 100,000,000 steps on."""
    return int(directory.name.removeprefix("step-"))


def write_manifest(directory: Path, facts: dict) -> None:
    """Writes `facts` (JSON values) and the SHA-256 of each file, and the SHA-256 of the manifest itself."""
    files = {path.name: sha256_of(path) for path in sorted(directory.iterdir())}
    content = (json.dumps({"format": FORMAT, **facts, "files": files}, indent=1) + "\n").encode()
    (directory / MANIFEST).write_bytes(content)
    (directory / DIGEST).write_bytes(digest_line(content))


def read_manifest(directory: Path) -> dict:
    """Verified manifest of a checkpoint; RunError if it is missing, damaged, or of another format or step."""
    with naming(directory / MANIFEST):
        content = (directory / MANIFEST).read_bytes()
    with naming(directory / DIGEST):
        is_intact = (directory / DIGEST).read_bytes() == digest_line(content)
    if not is_intact:
        raise RunError(f"{MANIFEST} is damaged: its SHA-256 is not the one in {DIGEST}")
    manifest = json.loads(content)
    if manifest["format"] != FORMAT:
        raise RunError(f"{MANIFEST} has format {manifest['format']}, expected {FORMAT}")
    if manifest["step"] != step_of(directory):
        raise RunError(f"{MANIFEST} is that of step {manifest['step']}")
    return manifest


def check_files(directory: Path, manifest: dict) -> None:
    """Raises RunError naming the first file of a checkpoint that is missing or has another SHA-256."""
    for name, digest in manifest["files"].items():
        with naming(directory / name):
            is_intact = sha256_of(directory / name) == digest
        if not is_intact:
            raise RunError(f"{name} is damaged: its SHA-256 is not the one in {MANIFEST}")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns an OSError inside into a RunError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"{path.name} is missing") from error
    except OSError as error:
        raise RunError(f"{path.name} cannot be read ({reason(error)})") from error


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_line(manifest: bytes) -> bytes:
    """Output of `sha256sum manifest.json`, so that `sha256sum --check` verifies it."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
