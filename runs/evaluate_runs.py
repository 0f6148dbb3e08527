"""Evaluation of trained runs, also at other image sizes, and classification of image files."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from tqdm import tqdm

from configs.schema import Config
from data.image_batches import normalize
from data.image_files import read_image
from models.config import AxialViTConfig
from runs.image_task import ImageTask, load_image_task
from runs.load import load_model, load_task, note_other_data
from runs.plots import save, subplots, without_formulas
from system.errors import DataError, RunError
from system.text import print_error, print_note
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
        patch_size = config.model.patch_size
        for size in sizes:
            if any(side % patch_size for side in size):
                raise RunError(
                    f"--image-size {format_size(size)} is not a multiple of the patches of {path}, "
                    f"which are {patch_size}x{patch_size} pixels"
                )
    rows = []
    for path, model, config, manifest in runs:
        evaluate = make_evaluator(model, ImageTask.measure, compile_mode=config.compile)
        for size in sizes:
            shape = format_size(size)
            if model.resamples_positions(*size):
                print_note(f"the learned positions of {path} are resampled for images of {shape}.")
            task = load_image_task(resized(config, size), report=print_error, recorded=True, facts=manifest)
            if size == config.model.image_size:
                note_other_data(path, config, manifest, fingerprint=task.facts["data_fingerprint"])
            means = evaluate(tqdm(task.evaluation_batches(), desc=f"{path} {shape}", disable=None))
            rows.append({"run": str(path), "step": manifest["step"], **task.results(means)})
    return rows


def resized(config: Config, size: Size) -> Config:
    """The config of a run with another image size."""
    data, model = replace(config.data, image_size=size), replace(config.model, image_size=size)
    return replace(config, data=data, model=model)


def format_size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def draw_accuracies(axes: Axes, rows: list[dict], sizes: list[Size]) -> None:
    """Draws the accuracy of each run at these image sizes."""
    labels = [format_size(size) for size in sizes]
    for run in dict.fromkeys(row["run"] for row in rows):
        accuracies = {row["image_size"]: row["accuracy"] for row in rows if row["run"] == run}
        axes.plot(range(len(sizes)), [accuracies[label] for label in labels], marker="o", label=run)
    axes.set_xticks(range(len(sizes)), labels)
    axes.set_ylabel("held-out accuracy")


@without_formulas
def plot_rows(rows: list[dict], path: Path) -> None:
    """Draws the accuracy of each run against the image size, in order of the number of pixels."""
    sizes = sorted({tuple(map(int, row["image_size"].split("x"))) for row in rows})
    figure, axes = subplots(7, 4)
    draw_accuracies(axes, rows, sorted(sizes, key=math.prod))
    axes.set_xlabel("image size, height x width in pixels")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path, dpi=120)


def classify_files(run_directory: Path, paths: list[Path], *, top: int) -> tuple[list[dict], list[str]]:
    """The `top` most probable classes of each image file, and one message for each unreadable file.

    Images are resized to the training size, and those of another shape are cropped to their centre.
    """
    model, config, manifest = load_model(run_directory, of=AxialViTConfig)
    mean, deviation = (np.array(manifest[key], np.float32) for key in ("mean", "deviation"))  # (channels,)
    predictions, failures = [], []
    for path in paths:
        try:
            image = read_image(path, image_size=config.model.image_size, channels=config.model.channels)
        except DataError as error:
            failures.append(str(error))
            continue
        inputs = normalize(image[np.newaxis], mean=mean, deviation=deviation)  # (1, height, width, channels)
        (probabilities,) = tf.nn.softmax(model(inputs)).numpy()  # (classes,)
        order = np.argsort(-probabilities, kind="stable")[:top]
        guesses = [{"class": manifest["classes"][i], "probability": float(probabilities[i])} for i in order]
        predictions.append({"image": str(path), "guesses": guesses})
    return predictions, failures
