"""Evaluation of trained runs, also at other image sizes, and classification of image files."""

import functools
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from configs.schema import Config
from data.image_batches import normalize
from data.image_files import list_images, read_image
from models.config import AxialViTConfig
from runs.figure_style import PAGE_INCHES, picture
from runs.load import TrainedRun, load_run, load_task, note_other_data
from system.errors import DataError
from system.text import can_redraw_lines, escape, print_error, print_note
from training.evaluation import make_evaluator

Size = tuple[int, int]


def evaluate_runs(paths: list[Path], sizes: list[Size] | None, *, step: int | str = "latest") -> list[dict]:
    """Row for each run, with its results on all its held-out data, or for each run and image size.

    An empty list of sizes stands for 1, 1.5 and 2 times that of the first run, as far as its patches fit.
    Raises RunError if sizes are given and a run is not of a vision transformer, ConfigError if its patches do
    not fit, and DataError if the data cannot be read.
    """
    of = None if sizes is None else AxialViTConfig
    runs = [load_run(path, of=of, step=step) for path in paths]
    if sizes == []:
        model = runs[0].config.model
        sizes = [tuple(side * halves // 2 for side in model.image_size) for halves in (2, 3, 4)]
        sizes = [size for size in sizes if not any(side % model.patch_size for side in size)]
    return [row for run in runs for row in evaluate_run(run, sizes or [])]


def evaluate_run(run: TrainedRun, sizes: list[Size]) -> Iterator[dict]:
    report_once = functools.cache(print_error)  # the data are loaded for each size
    for config in [resized(run.config, size) for size in sizes] or [run.config]:
        task = load_task(config, report=report_once, facts=run.manifest, run_directory=run.path)
        if config.model == run.config.model:
            note_other_data(run, task.facts["data_fingerprint"])
        elif config.model.position == "learned" and config.model.grid != run.config.model.grid:
            shape = "x".join(map(str, config.model.image_size))
            print_note(f"the learned positions of {run.path} are resampled for images of {shape}.")
        evaluate = make_evaluator(run.model, task.measure, compile_mode=config.compile)
        batches = tqdm(task.evaluation_batches(), desc=escape(str(run.path)), disable=not can_redraw_lines())
        facts = {"run": str(run.path), "step": run.manifest["step"], "parameters": run.model.count_params()}
        yield facts | task.results(evaluate(batches))


def resized(config: Config, size: Size) -> Config:
    """The config of a run with another image size; raises ConfigError unless patches divide it."""
    data, model = replace(config.data, image_size=size), replace(config.model, image_size=size)
    return replace(config, data=data, model=model)


def plot_sizes(rows: list[dict], path: Path) -> None:
    """Draws the accuracy of each run by image size; `rows` are those of `evaluate_runs`."""
    sizes = sorted({row["image_size"] for row in rows}, key=lambda size: math.prod(map(int, size.split("x"))))
    with picture(path, PAGE_INCHES, 4) as figure:
        axes = figure.subplots()
        for run in dict.fromkeys(row["run"] for row in rows):
            accuracies = {row["image_size"]: row["accuracy"] for row in rows if row["run"] == run}
            axes.plot([accuracies[size] for size in sizes], marker="o", label=run)
        axes.set_title("The same weights at other image sizes")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set(xlabel="image size, height x width in pixels", ylabel="held-out accuracy", ylim=(0, 1.05))
        axes.grid()
        figure.legend(loc="outside right upper")


def classify_files(
    run_directory: Path, paths: list[Path], *, top: int, step: int | str = "latest"
) -> tuple[list[dict], list[str]]:
    """The `top` most probable classes of each image file, and one message for each unreadable file.

    Of a directory, all image files below it are classified. Images are cropped to the center and resized.
    """
    run = load_run(run_directory, of=AxialViTConfig, step=step)
    facts, options = run.manifest, run.config.model
    mean, deviation = (np.array(facts[key], np.float32) for key in ("mean", "deviation"))  # (channels,)
    files, predictions, failures = [], [], []
    for path in paths:
        images = list_images(path, report=print_error) if os.path.isdir(path) else [("", path)]
        files += [file for _, file in images]
    if not files:
        raise DataError(f"no images in {', '.join(map(str, paths))}; choose image files or their directory")
    for path in tqdm(files, unit="image", disable=not can_redraw_lines()):
        try:
            image = read_image(path, image_size=options.image_size, channels=options.channels)
        except DataError as error:
            failures.append(str(error))
            continue
        inputs = normalize(image[np.newaxis], mean=mean, deviation=deviation)  # (1, height, width, channels)
        (probabilities,) = tf.nn.softmax(run.model(inputs)).numpy()  # (classes,)
        order = np.argsort(-probabilities, kind="stable")[:top]
        guesses = [{"class": facts["classes"][i], "probability": float(probabilities[i])} for i in order]
        predictions.append({"image": str(path), "guesses": guesses})
    return predictions, failures
