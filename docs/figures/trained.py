"""Figures of trained runs: where heads look, and what other image sizes do."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import models.layers
from data.image_batches import normalized
from data.tokens import encode
from docs.figures.style import COLORS, FAINT, SHARES, bare, new_figure
from models.config import AxialViTConfig, TransformerLMConfig
from runs.image_task import ImageTask, load_image_task
from runs.load import load_model
from runs.resolution import accuracy_by_size, resized, words
from system.errors import RunError
from system.terminal import print_error

LONGEST_SHOWN = 90


def attention(*, run_directory: Path, prompt: str) -> Figure:
    """Maps of each head on a prompt, and how much each looks at each distance on the average.

    Raises:
        RunError: if the run is not of a language model, or the prompt does not suit it.
    """
    model, config, _ = load_model(run_directory, of=TransformerLMConfig)
    tokens = encode(prompt)
    if not 2 <= len(tokens) <= config.context_length:
        raise RunError(f"--prompt must have 2 to {config.context_length} bytes, got {len(tokens)}")
    layers = [weights[0] for weights in attention_weights(model, tf.constant(tokens[np.newaxis], tf.int32))]
    num_heads = config.model.num_heads
    figure = new_figure(2.1 * num_heads + 4, 2.2 * len(layers) + 0.8, "")
    title = f"Where the heads of {run_directory} look: a row a query, a column a key, darker is more"
    figure.suptitle(f"{title}\n{shortened(prompt)!r}", fontsize=11, parse_math=False)
    grid = figure.subplots(len(layers), num_heads + 1, squeeze=False, width_ratios=[*[1] * num_heads, 1.5])
    for number, (row, weights) in enumerate(zip(grid, layers, strict=True)):
        for head, axes in enumerate(row[:-1]):
            # Relative to the row's largest, and as a root: a weight of 1/50 is still to be seen.
            shown = np.sqrt(weights[head] / weights[head].max(axis=1, keepdims=True))
            axes.imshow(shown, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"layer {number}, head {head}", fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
        by_distance(row[-1], weights)
    grid[0, -1].set_title("mean attention by distance", fontsize=9)
    grid[-1, -1].set_xlabel("bytes back")
    return figure


def shortened(prompt: str) -> str:
    return prompt if len(prompt) <= LONGEST_SHOWN else prompt[:LONGEST_SHOWN] + "\N{HORIZONTAL ELLIPSIS}"


def by_distance(axes: Axes, weights: np.ndarray) -> None:
    """A line for each head of (heads, length, length) weights."""
    length = weights.shape[-1]
    for head, color in zip(range(len(weights)), COLORS * math.ceil(len(weights) / len(COLORS)), strict=False):
        means = [np.diagonal(weights[head], -back).mean() for back in range(length)]
        axes.plot(range(length), means, color=color, linewidth=1.2, label=f"head {head}")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.grid()
    axes.legend(fontsize=7, ncols=2)


def attention_weights(model: keras.Model, inputs: tf.Tensor) -> list[np.ndarray]:
    """Of each attention layer in turn, the (batch, heads, length, keys_length) weights of one eager pass.

    Raises:
        RunError: if the model attends without making them.
    """
    with recorded_attention() as layers:
        model(inputs)
    if not layers:
        raise RunError("the model makes no attention weights: its attention works off keys in pieces.")
    return layers


@contextlib.contextmanager
def recorded_attention() -> Iterator[list[np.ndarray]]:
    """The weights of each call of `models.layers.attend`, from the queries, keys and bias that it is given.

    It is replaced for as long as the context lasts, so that training never makes or keeps them.
    """
    layers, attend = [], models.layers.attend

    def recording(queries, keys, values, bias=None):
        layers.append(weights_of(queries, keys, bias).numpy())
        return attend(queries, keys, values, bias)

    models.layers.attend = recording
    try:
        yield layers
    finally:
        models.layers.attend = attend


def weights_of(queries: tf.Tensor, keys: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """(batch, heads, length, keys_length) float32; arguments as `models.layers.attend`."""
    group = queries.shape[1] // keys.shape[1]
    keys = tf.repeat(tf.cast(keys, tf.float32), group, axis=1)
    scores = tf.matmul(tf.cast(queries, tf.float32), keys, transpose_b=True) * keys.shape[-1] ** -0.5
    return tf.nn.softmax(scores if bias is None else scores + tf.cast(bias, tf.float32))


def resolution(*, run_directories: list[Path], image_size: list[tuple[int, int]] | None) -> Figure:
    """Accuracy by image size, under one held-out image at each size, cut into its patches.

    Raises:
        RunError: if a run is not one of images, or a size is no multiple of its patches.
        DataError: if the images cannot be had, or are not such as the model takes.
    """
    first, *_ = run_directories
    model, config, manifest = load_model(first, of=AxialViTConfig)
    sizes = image_size or default_sizes(config.model.image_size, config.model.patch_size)
    sizes = sorted(set(sizes), key=math.prod)
    rows = accuracy_by_size(run_directories, sizes)
    figure = new_figure(max(7, 1.9 * len(sizes)), 5.2, "The same weights at other image sizes")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    for axes, size in zip(top.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        task = load_image_task(resized(config, size), report=print_error, recorded=True, facts=manifest)
        draw_patches(axes, task, model, config.model.patch_size)
        trained = ", as trained" if size == config.model.image_size else ""
        axes.set_xlabel(f"{words(size)} pixels{trained}")
    axes = bottom.subplots()
    for path in dict.fromkeys(row["run"] for row in rows):
        axes.plot([row["accuracy"] for row in rows if row["run"] == path], marker="o", label=path)
    axes.set_xticks(range(len(sizes)), map(words, sizes))
    axes.set(xlabel="image size, pixels", ylabel="held-out accuracy", ylim=(0, 1.05))
    axes.axhline(1 / config.model.num_classes, color=FAINT, linestyle="--", linewidth=1, label="guessing")
    axes.grid()
    axes.legend(loc="lower left")
    return figure


def default_sizes(trained: tuple[int, int], patch_size: int) -> list[tuple[int, int]]:
    """1, 1.5 and 2 times the trained size, where patches divide it."""
    sizes = [tuple(side * halves // 2 for side in trained) for halves in (2, 3, 4)]
    return [size for size in sizes if not any(side % patch_size for side in size)]


def draw_patches(axes: Axes, task: ImageTask, model: keras.Model, patch_size: int) -> None:
    """The first held-out image, with what the model takes it for."""
    image = task.images.validation.images[:1]
    logits = model(normalized(image, mean=task.mean, deviation=task.deviation))
    (probabilities,) = tf.nn.softmax(logits).numpy()
    height, width, channels = image.shape[1:]
    axes.imshow(image[0] if channels == 3 else image[0, ..., 0], cmap="gray", vmin=0, vmax=255)
    for row in range(0, height + 1, patch_size):
        axes.axhline(row - 0.5, color=COLORS[1], linewidth=0.7)
    for column in range(0, width + 1, patch_size):
        axes.axvline(column - 0.5, color=COLORS[1], linewidth=0.7)
    bare(axes)
    classes, best = task.images.classes, probabilities.argmax()
    label = classes[task.images.validation.labels[0]]
    axes.set_title(f"{label}, taken for {classes[best]} ({probabilities[best]:.0%})", parse_math=False)
