"""Evaluation of trained runs on their held-out data, and of vision transformers at other image sizes."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from configs.schema import Config
from models.config import AxialViTConfig
from runs.image_task import ImageTask, load_image_task
from runs.load import load_model, load_task, note_other_data
from runs.plots import plot_image_sizes
from system.errors import RunError
from system.terminal import print_error, print_note
from training.evaluation import make_evaluator

Size = tuple[int, int]


def evaluate_run(path: Path) -> dict:
    """Results of a run on all its held-out data."""
    model, config, manifest = load_model(path)
    task = load_task(config, report=print_error, recorded=True, facts=manifest)
    note_other_data(path, config, manifest, fingerprint=task.facts["data_fingerprint"])
    evaluate = make_evaluator(model, task.measure, compile_mode=config.compile)
    means = evaluate(tqdm(task.evaluation_batches(), desc=str(path), disable=None))
    return {
        "run": str(path),
        "step": manifest["step"],
        "parameters": model.count_params(),
        **task.results(means),
    }


def evaluate_image_sizes(paths: list[Path], sizes: list[Size]) -> list[dict]:
    """Row for each run and size, with the results on all its held-out images, resized.

    Raises:
        RunError: if a run is not of a vision transformer, or a size is not a multiple of its patches.
        DataError: if the images cannot be read, or do not suit the model.
    """
    runs = [(path, *load_model(path, of=AxialViTConfig)) for path in paths]
    for path, _, config, _ in runs:
        check_sizes(path, sizes, config.model.patch_size)
    rows = []
    for path, model, config, manifest in runs:
        evaluate = make_evaluator(model, ImageTask.measure, compile_mode=config.compile)
        for size in sizes:
            if model.resamples_positions(*size):
                print_note(
                    f"the learned positions of {path} are resampled for images of {format_size(size)}."
                )
            task = load_image_task(resized(config, size), report=print_error, recorded=True, facts=manifest)
            if size == config.model.image_size:
                note_other_data(path, config, manifest, fingerprint=task.facts["data_fingerprint"])
            batches = task.evaluation_batches()
            means = evaluate(tqdm(batches, desc=f"{path} {format_size(size)}", disable=None))
            rows.append({"run": str(path), "step": manifest["step"], **task.results(means)})
    return rows


def resized(config: Config, size: Size) -> Config:
    """The config of a run with another image size."""
    data, model = replace(config.data, image_size=size), replace(config.model, image_size=size)
    return replace(config, data=data, model=model)


def check_sizes(path: Path, sizes: list[Size], patch_size: int) -> None:
    for size in sizes:
        if any(side % patch_size for side in size):
            raise RunError(
                f"--image-size {format_size(size)} is not a multiple of the patches of {path}, "
                f"which are {patch_size}x{patch_size} pixels"
            )


def format_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def plot_rows(rows: list[dict], path: Path) -> None:
    """Draws the accuracy of each run by image size."""
    accuracies: dict[str, dict[Size, float]] = {}
    for row in rows:
        height, width = map(int, row["image_size"].split("x"))
        accuracies.setdefault(row["run"], {})[height, width] = row["accuracy"]
    plot_image_sizes(path, accuracies)
