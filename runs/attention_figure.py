"""Figure of the attention weights of each head of a language model."""

import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib import ticker
from matplotlib.axes import Axes

from configs.run_table import shorten
from data.tokenizer import label
from models import kernels, transformer, vit
from models.config import TransformerLMConfig
from runs.arguments import writing
from runs.figure_style import SHARES, hide_ticks, picture
from runs.load import load_model, load_run_tokenizer
from system.errors import RunError

EXAMPLE = "self.x = self."
LONGEST_PROMPT, MAX_LABELS = 90, 40


def plot_attention(path: Path, run_directory: Path, *, prompt: str | None, step: int | str) -> None:
    """Draws the attention weights of each head on a prompt or on `EXAMPLE`, and their mean by distance.

    Raises RunError if the run is not of a language model, the prompt is too short or too long, or the file
    cannot be written.
    """
    model, config, _ = load_model(run_directory, of=TransformerLMConfig, step=step)
    tokenizer = load_run_tokenizer(run_directory, config)
    if prompt is None:
        prompt = tokenizer.decode(tokenizer.encode(EXAMPLE)[: config.context_length])
    tokens = tokenizer.encode(prompt)
    if not 2 <= len(tokens) <= config.context_length:
        raise RunError(f"--prompt must have 2 to {config.context_length} tokens, got {len(tokens)}")
    layers = attention_weights(model, tf.constant(tokens[np.newaxis], tf.int32))
    title = (
        f"Attention of the heads of {run_directory}: rows are queries, columns are keys, darker is more\n"
        f"{shorten(repr(prompt), LONGEST_PROMPT)}"
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_attention(path, layers, [label(tokenizer, token) for token in tokens], title)


def draw_attention(path: Path, layers: list[np.ndarray], labels: list[str], title: str) -> None:
    """Draws a row for each layer of (1, heads, length, length) weights, and a column for each head."""
    num_heads = layers[0].shape[1]
    with picture(path, 1.7 * num_heads + 2.6, 1.7 * len(layers) + 1.3) as figure:
        figure.suptitle(title, fontsize=11)
        widths = [*[1] * num_heads, 1.3]
        grid = figure.subplots(len(layers), len(widths), squeeze=False, width_ratios=widths)
        for number, (row, (weights,)) in enumerate(zip(grid, layers, strict=True)):
            for head, axes in enumerate(row[:-1]):
                # Square root of the share of the row's largest weight, so that a weight of 1/50 is visible.
                shares = np.sqrt(weights[head] / weights[head].max(axis=1, keepdims=True))
                axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(f"layer {number}, head {head}", fontsize=9)
                label_tokens(axes, labels, rows=head == 0, columns=number == len(layers) - 1)
            draw_by_distance(row[-1], weights)
        grid[0, -1].set_title("mean by distance", fontsize=9)
        grid[0, -1].legend(fontsize=7, ncols=2)
        grid[-1, -1].set_xlabel("tokens back")


def label_tokens(axes: Axes, labels: list[str], *, rows: bool, columns: bool) -> None:
    """Writes the tokens beside the rows and below the columns, or numbers if there are too many."""
    numbers = range(len(labels))
    size = min(9, 105 / len(labels))  # points; an axis is about 100 long
    rotation = 90 if max(map(len, labels)) > 1 else 0
    if len(labels) > MAX_LABELS:
        numbers, size = range(0, len(labels), math.ceil(len(labels) / 5)), 8
        labels = [str(number) for number in numbers]
    hide_ticks(axes)
    axes.tick_params(length=0, pad=1)
    if rows:
        axes.set_yticks(numbers, labels, fontsize=size)
    if columns:
        axes.set_xticks(numbers, labels, fontsize=size, rotation=rotation)


def draw_by_distance(axes: Axes, weights: np.ndarray) -> None:
    """Draws one line for each head of (heads, length, length) weights."""
    for head, matrix in enumerate(weights):
        means = [np.diagonal(matrix, -back).mean() for back in range(len(matrix))]
        axes.plot(means, linewidth=1.2, label=f"head {head}")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    axes.grid()


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
