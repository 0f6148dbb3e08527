"""Figures of trained runs: attention of each head, and accuracy by image size."""

import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.tokenizer import label
from models import kernels, transformer, vit
from models.config import TransformerLMConfig
from runs.evaluate_runs import resized
from runs.figure_style import COLORS, FAINT, SHARES, hide_ticks
from runs.image_task import ImageTask, load_image_task
from runs.load import load_model, load_run_tokenizer
from runs.plots import new_figure, without_formulas
from system.errors import RunError
from system.text import format_percent

EXAMPLE = "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self."
LONGEST_PROMPT, MAX_LABELS = 90, 40


@without_formulas
def attention(run_directory: Path, *, prompt: str | None, step: int | str = "latest") -> Figure:
    """Attention weights of each head on a prompt or on `EXAMPLE`, and their mean by distance.

    Raises RunError if the run is not of a language model, or the prompt is too short or too long.
    """
    model, config, _ = load_model(run_directory, of=TransformerLMConfig, step=step)
    tokenizer = load_run_tokenizer(run_directory, config)
    if prompt is None:
        prompt = tokenizer.decode(tokenizer.encode(EXAMPLE)[: config.context_length])
    tokens = tokenizer.encode(prompt)
    if not 2 <= len(tokens) <= config.context_length:
        raise RunError(f"--prompt must have 2 to {config.context_length} tokens, got {len(tokens)}")
    layers = attention_weights(model, tf.constant(tokens[np.newaxis], tf.int32))
    num_heads = config.model.num_heads
    figure = new_figure(2.1 * num_heads + 4, 2.2 * len(layers) + 0.8)
    title = f"Attention of the heads of {run_directory}: rows are queries, columns are keys, darker is more"
    if len(prompt) > LONGEST_PROMPT:
        prompt = prompt[:LONGEST_PROMPT] + "\N{HORIZONTAL ELLIPSIS}"
    figure.suptitle(f"{title}\n{prompt!r}", fontsize=11)
    grid = figure.subplots(len(layers), num_heads + 1, squeeze=False, width_ratios=[*[1] * num_heads, 1.5])
    for number, (row, (weights,)) in enumerate(zip(grid, layers, strict=True)):
        for head, axes in enumerate(row[:-1]):
            # Square root of the share of the row's largest weight, so that a weight of 1/50 is visible.
            shares = np.sqrt(weights[head] / weights[head].max(axis=1, keepdims=True))
            axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"layer {number}, head {head}", fontsize=9)
            label_tokens(axes, [label(tokenizer, token) for token in tokens])
        draw_by_distance(row[-1], weights)
    grid[0, -1].set_title("mean attention by distance", fontsize=9)
    grid[-1, -1].set_xlabel("tokens back")
    return figure


def label_tokens(axes: Axes, labels: list[str]) -> None:
    """Writes the tokens beside the rows and columns, unless there are too many."""
    hide_ticks(axes)
    if len(labels) <= MAX_LABELS:
        size = min(8, 110 / len(labels))  # points; an axis is about 140 long
        axes.set_yticks(range(len(labels)), labels, fontsize=size)
        axes.set_xticks(range(len(labels)), labels, fontsize=size, rotation=90)
        axes.tick_params(length=0, pad=1)


def draw_by_distance(axes: Axes, weights: np.ndarray) -> None:
    """Draws one line for each head of (heads, length, length) weights."""
    for head, matrix in enumerate(weights):
        means = [np.diagonal(matrix, -back).mean() for back in range(len(matrix))]
        axes.plot(means, linewidth=1.2, label=f"head {head}")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.grid()
    axes.legend(fontsize=7, ncols=2)


def attention_weights(model: keras.Model, inputs: tf.Tensor) -> list[np.ndarray]:
    """(batch, heads, length, keys_length) weights of each attention layer in one eager forward pass.

    `attend` of both models is replaced during the pass, since training never computes the weights.
    Raises RunError if the model computes attention in chunks.
    """
    layers = []

    def recording_attend(queries, keys, values, bias=None):
        layers.append(kernels.attention_weights(queries, keys, bias).numpy())
        return kernels.attend(queries, keys, values, bias)

    transformer.attend = vit.attend = recording_attend
    try:
        model(inputs)
    finally:
        transformer.attend = vit.attend = kernels.attend
    if not layers:
        raise RunError("the model computes attention in chunks, without a matrix of weights to draw.")
    return layers


@without_formulas
def resolution(rows: list[dict]) -> Figure:
    """Accuracy of each run by image size, below one held-out image at each size with its patches.

    `rows` are those of `evaluate_runs`; the predictions are those of the first run.
    """
    first = rows[0]
    model, config, manifest = load_model(Path(first["run"]), step=first["step"], report=lambda line: None)
    sizes = {row["image_size"]: tuple(map(int, row["image_size"].split("x"))) for row in rows}
    sizes = dict(sorted(sizes.items(), key=lambda size: math.prod(size[1])))
    figure = new_figure(max(7, 1.9 * len(sizes)), 5.2, "The same weights at other image sizes")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    for axes, (name, size) in zip(top.subplots(1, len(sizes), squeeze=False)[0], sizes.items(), strict=True):
        task = load_image_task(resized(config, size), report=lambda line: None, recorded=True, facts=manifest)
        draw_prediction(axes, task, model, config.model.patch_size)
        axes.set_xlabel(f"{name} pixels" + (", as trained" if size == config.model.image_size else ""))
    axes = bottom.subplots()
    for run in dict.fromkeys(row["run"] for row in rows):
        accuracies = {row["image_size"]: row["accuracy"] for row in rows if row["run"] == run}
        axes.plot([accuracies[name] for name in sizes], marker="o", label=run)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="image size, height x width in pixels", ylabel="held-out accuracy", ylim=(0, 1.05))
    axes.axhline(1 / config.model.num_classes, color=FAINT, linestyle="--", linewidth=1, label="guessing")
    axes.grid()
    axes.legend(loc="lower left")
    return figure


def draw_prediction(axes: Axes, task: ImageTask, model: keras.Model, patch_size: int) -> None:
    """Draws the first held-out image, its patches, its class and the predicted class."""
    probabilities = tf.nn.softmax(model(task.normalize(task.images.validation.images[:1]))).numpy()
    ((image, label, predicted, share),) = task.predictions(np.array([0]), probabilities)
    height, width, channels = image.shape
    axes.imshow(image if channels == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.hlines(np.arange(0, height + 1, patch_size) - 0.5, -0.5, width - 0.5, COLORS[1], linewidth=0.7)
    axes.vlines(np.arange(0, width + 1, patch_size) - 0.5, -0.5, height - 0.5, COLORS[1], linewidth=0.7)
    hide_ticks(axes, frame=False)
    axes.set_title(f"{label}, predicted {predicted} ({format_percent(share, 0)})")
