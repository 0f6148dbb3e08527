"""Comparison of two runs by everything that does not depend on the clock."""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from training.checkpoints import TENSORS, complete_checkpoints, directory_name


def differences(first: Path, second: Path) -> list[str]:
    """Differences between two finished runs of one config, a line each; values are compared bit for bit."""
    problems = []
    for name, read in READERS.items():
        one, other = read(first), read(second)
        for key in sorted(one.keys() | other.keys(), key=str):
            if key not in one or key not in other:
                problems.append(f"{name}: {key} is in one run only")
            elif not same(one[key], other[key]):
                problems.append(f"{name}: {key} differs")
    return problems


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other


def tensors_of(run: Path, *, step: int | None = None) -> dict[str, np.ndarray]:
    """Weights and optimizer variables in the latest checkpoint, or in that of a step."""
    paths = complete_checkpoints(run / "checkpoints")
    path = paths[-1] if step is None else run / "checkpoints" / directory_name(step)
    reader = tf.train.load_checkpoint(str(path / TENSORS))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def rows_of(run: Path) -> list[dict]:
    """Rows of metrics.jsonl, without timings."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [without_timing(json.loads(line)) for line in lines]


def events_of(run: Path) -> dict[tuple, set]:
    """Distinct values by step and name, as TensorBoard reads them; of pictures (width, height, PNG)."""
    values: dict[tuple, set] = {}
    for folder, prefix in (("tensorboard", ""), ("tensorboard/validation", "validation_")):
        reader = EventAccumulator(str(run / folder), size_guidance={"tensors": 0})
        reader.Reload()
        for name in reader.Tags()["tensors"]:
            for event in reader.Tensors(name) if not is_timing(name) else ():
                value = tf.make_ndarray(event.tensor_proto)
                value = value[()] if value.ndim == 0 else tuple(value)
                values.setdefault((event.step, prefix + name), set()).add(value)
    return values


def summary_of(run: Path) -> dict:
    """Keys of summary.json, without the name and timings."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return without_timing({key: value for key, value in summary.items() if key != "name"})


def without_timing(row: dict) -> dict:
    return {key: value for key, value in row.items() if not is_timing(key)}


def is_timing(key: str) -> bool:
    return key == "elapsed_seconds" or key.endswith("_per_second")


READERS = {
    "tensor": tensors_of,
    "row of metrics.jsonl": lambda run: dict(enumerate(rows_of(run))),
    "event of TensorBoard": events_of,
    "key of summary.json": summary_of,
    "picture or sample": lambda run: {
        path.name: path.read_bytes() for path in [*run.glob("*.png"), *run.glob("samples.txt")]
    },
}
