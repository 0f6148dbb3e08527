"""Accuracy of trained vision transformers at other image sizes, with the weights as they are."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from configs.schema import Config
from models.config import AxialViTConfig
from runs.image_task import ImageTask, load_image_task
from runs.load import load_model, note_other_data
from runs.plots import plot_image_sizes
from system.errors import RunError
from system.terminal import print_error
from training.evaluation import make_evaluator

Size = tuple[int, int]


def accuracy_by_size(run_directories: list[Path], sizes: list[Size]) -> list[dict]:
    """One row for each run and size, with what is measured on all its held-out images, resized.

    Raises:
        RunError: if a run is not one of images, or a size is no multiple of its patches.
        DataError: if the images cannot be had, or are not such as the model takes.
    """
    runs = [(path, *load_model(path, of=AxialViTConfig)) for path in run_directories]
    for path, _, config, _ in runs:
        check_sizes(path, sizes, config.model.patch_size)
    rows = []
    for path, model, config, manifest in runs:
        evaluate = make_evaluator(model, ImageTask.measure, compile_mode=config.compile)
        for size in sizes:
            if model.resamples_positions(*size):
                print_error(
                    f"note: the learned positions of {path} are resampled for images of {words(size)}."
                )
            task = load_image_task(resized(config, size), report=print_error, recorded=True, facts=manifest)
            if size == config.model.image_size:
                note_other_data(path, config, manifest, fingerprint=task.facts["data_fingerprint"])
            means = evaluate(tqdm(task.evaluation_batches(), desc=f"{path} {words(size)}", disable=None))
            rows.append({"run": str(path), "step": manifest["step"], **task.results(means)})
    return rows


def resized(config: Config, size: Size) -> Config:
    """With images of that size."""
    return replace(
        config,
        data=replace(config.data, image_size=size),
        model=replace(config.model, image_size=size),
    )


def check_sizes(path: Path, sizes: list[Size], patch_size: int) -> None:
    for size in sizes:
        if any(side % patch_size for side in size):
            raise RunError(
                f"--image-size {words(size)} is not a multiple of the patches of {path}, "
                f"which are {patch_size}x{patch_size} pixels"
            )


def words(size: Size) -> str:
    return "x".join(map(str, size))


def plot(rows: list[dict], run_directories: list[Path]) -> Path:
    """Draws the rows; where to: into the run, or where the command runs when there are several."""
    accuracies: dict[str, dict[Size, float]] = {}
    for row in rows:
        height, width = map(int, row["image_size"].split("x"))
        accuracies.setdefault(row["run"], {})[height, width] = row["accuracy"]
    path = (run_directories[0] if len(run_directories) == 1 else Path()) / "resolution.png"
    plot_image_sizes(path, accuracies)
    return path
