"""Figures of the attention weights and of the learned rotations of a language model."""

import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib import ticker
from matplotlib.axes import Axes

from configs.run_table import shorten
from data.tokenizer import label
from models import attention, kernels, transformer
from models.config import TransformerLMConfig
from rope import plain_operations
from rope.rotation import compute_cos_sin
from runs.arguments import writing
from runs.figure_style import PAGE_INCHES, SHARES, SIGNED, picture
from runs.load import load_run
from system.errors import RunError

EXAMPLE = "def area(self):\n    return self.width * self.height\n"
LONGEST_PROMPT, MAX_LABELS = 90, 40


def plot_attention(path: Path, run_directory: Path, *, prompt: str | None, step: int | str) -> list[dict]:
    """Draws the attention weights of each head on a prompt or on `EXAMPLE`, and their mean by distance.

    Learned rotations are drawn in rotations.png beside it; returns the root mean square of the angles of
    each layer. Raises RunError if the run is not of a language model, the prompt is too short or too long,
    or a file cannot be written.
    """
    run = load_run(run_directory, of=TransformerLMConfig, step=step)
    tokenizer, longest = run.tokenizer, run.trained_length
    if prompt is None:
        prompt = tokenizer.decode(tokenizer.encode(EXAMPLE)[:longest])
    tokens = tokenizer.encode(prompt)
    if not 2 <= len(tokens) <= longest:
        raise RunError(f"--prompt must have 2 to {longest} tokens, got {len(tokens)}")
    inputs = tf.constant(tokens[np.newaxis], tf.int32)
    labels = [label(tokenizer, token) for token in tokens]
    subject = f"{run_directory}\n{shorten(repr(prompt), LONGEST_PROMPT)}"
    title = "Attention weights of the heads: rows are queries, columns are keys, darker is more"
    weights, angles = record_layers(run.model, inputs)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_attention(path, weights, labels, f"{title}\n{subject}")
    if angles:
        title = "Learned rotations in radians: rows are the pairs of all heads"
        with writing(path.with_name("rotations.png")) as rotations:
            draw_rotations(rotations, angles, labels, f"{title}\n{subject}")
    sizes = [np.sqrt(np.mean(np.square(layer))) for layer in angles]
    return [{"layer": number, "learned_angle": float(size)} for number, size in enumerate(sizes)]


def draw_attention(path: Path, layers: list[np.ndarray], labels: list[str], title: str) -> None:
    """Draws a row for each layer of (1, heads, length, length) weights, and a column for each head."""
    num_heads = layers[0].shape[1]
    with picture(path, max(PAGE_INCHES, 1.5 * num_heads + 2.5), 1.8 * len(layers) + 1) as figure:
        figure.suptitle(title, fontsize=11)
        widths = [*[1] * num_heads, 1.3]
        grid = figure.subplots(len(layers), len(widths), squeeze=False, width_ratios=widths)
        for number, (row, (weights,)) in enumerate(zip(grid, layers, strict=True)):
            for head, axes in enumerate(row[:-1]):
                # Square root of the share of the row's largest weight, so that a weight of 1/50 is visible.
                shares = np.sqrt(weights[head] / weights[head].max(axis=1, keepdims=True))
                axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(f"layer {number}, head {head}")
                label_tokens(axes, labels, rows=head == 0, columns=number == len(layers) - 1)
            draw_by_distance(row[-1], weights)
        grid[0, -1].set_title("mean by distance")
        grid[-1, -1].set_xlabel("tokens back")
        figure.legend(*grid[0, -1].get_legend_handles_labels(), loc="outside lower right", ncols=num_heads)


def draw_rotations(path: Path, layers: list[np.ndarray], labels: list[str], title: str) -> None:
    """Draws a panel for each layer of (1, kv_heads, length, head_dim / 2) angles."""
    with picture(path, PAGE_INCHES, 1.6 * len(layers) + 1) as figure:
        figure.suptitle(title, fontsize=11)
        grid = figure.subplots(len(layers), squeeze=False)[:, 0]
        for number, (axes, (angles,)) in enumerate(zip(grid, layers, strict=True)):
            pairs = np.concatenate(angles.transpose(0, 2, 1))  # (kv_heads * head_dim / 2, length)
            largest = abs(pairs).max()
            image = axes.imshow(
                pairs, cmap=SIGNED, vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
            )
            figure.colorbar(image, ax=axes, pad=0.01)
            label_tokens(axes, labels, rows=False, columns=number == len(layers) - 1)
            axes.set_ylabel(f"layer {number}")


def label_tokens(axes: Axes, labels: list[str], *, rows: bool, columns: bool) -> None:
    """Writes the tokens beside the rows and below the columns, or numbers if there are too many."""
    numbers, size = range(len(labels)), min(9, 100 / len(labels))  # points; an axis is about 95 long
    style, pad = ({"rotation": 90}, 1) if max(map(len, labels)) > 1 else ({"va": "baseline"}, size)
    if len(labels) > MAX_LABELS:
        numbers = range(0, len(labels), math.ceil(len(labels) / 5))
        labels, size, style, pad = [str(number) for number in numbers], 8, {}, 1
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0, pad=1)
    if rows:
        axes.set_yticks(numbers, labels, fontsize=size)
    if columns:
        axes.set_xticks(numbers, labels, fontsize=size, **style)
        axes.tick_params(axis="x", pad=pad)


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


def record_layers(model: keras.Model, inputs: tf.Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Attention weights and learned angles of each layer, in one eager forward pass.

    The weights are (batch, heads, length, keys_length), the angles (batch, kv_heads, length, head_dim / 2).
    `attend` is replaced, since training computes no weights; `plain_operations` uses it for every length.
    """
    weights, angles = [], []

    def recording_attend(queries, keys, values, bias=None):
        weights.append(kernels.attention_weights(queries, keys, bias).numpy())
        return kernels.attend(queries, keys, values, bias)

    def recording_cos_sin(layer_angles):
        angles.append(layer_angles.numpy())
        return compute_cos_sin(layer_angles)

    transformer.attend, attention.compute_cos_sin = recording_attend, recording_cos_sin
    try:
        with plain_operations():
            model(inputs)
    finally:
        transformer.attend, attention.compute_cos_sin = kernels.attend, compute_cos_sin
    return weights, angles
