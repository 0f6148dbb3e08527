"""Pictures of runs."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from configs.run_table import shorten
from runs.figure_style import GREEN, ORANGE, PAGE_INCHES, RED, SHARES, picture
from system.text import format_percent

TRAINING = {"label": "training batch", "alpha": 0.5, "linewidth": 1}
HELD_OUT = {"label": "held out", "color": ORANGE, "marker": "o", "markersize": 4}

IMAGES_PER_ROW = 6
COLUMN_INCHES, TITLE_INCHES = PAGE_INCHES / IMAGES_PER_ROW, 0.4
# Height of an image with its label, side of the image, and its distance from the top, in column widths.
CELL_HEIGHT, IMAGE_SIDE, IMAGE_TOP = 1.25, 0.88, 0.3

MAX_CLASSES_WITH_COUNTS, MAX_CLASSES_WITH_NAMES = 20, 40
MAX_NAME_LENGTH, MAX_LABEL_LENGTH = 14, 10


class Prediction(NamedTuple):
    """An image, (height, width, channels) uint8, its class, the predicted class and its probability."""

    image: np.ndarray
    label: str
    predicted: str
    probability: float


def plot_loss(rows: list[dict], path: Path, *, unit: str, title: str) -> None:
    """Draws training and held-out loss, and the accuracy if there is one, against tokens or images seen.

    `rows` are those of metrics.jsonl; `unit` is the column of the horizontal axis, `tokens` or `images`.
    """
    from matplotlib import ticker

    panels = {f"loss, nats per {unit.removesuffix('s')}": ("loss", "validation_loss")}
    if any("accuracy" in row for row in rows):
        panels["accuracy"] = ("accuracy",)
    with picture(path, PAGE_INCHES, 2.5 + 1.75 * len(panels)) as figure:
        figure.suptitle(title)
        grid = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (label, columns) in zip(grid, panels.items(), strict=True):
            for column in columns:
                points = [(row[unit], row[column]) for row in rows if column in row]
                if points:
                    axes.plot(*zip(*points, strict=True), **(TRAINING if column == "loss" else HELD_OUT))
            axes.set_ylabel(label)
            axes.grid()
            if axes.lines:
                axes.legend()
        grid[0].set_yscale("log")  # the first steps would squeeze the others
        labeled = (1, 2, 5) if np.divide(*grid[0].get_ylim()) < 0.05 else (1, 1.2, 1.5, 2, 3, 5, 7)
        grid[0].yaxis.set(major_locator=ticker.LogLocator(subs=labeled), major_formatter="{x:g}")
        grid[0].minorticks_off()
        locator = ticker.MaxNLocator(6, steps=(1, 2, 5, 10), integer=True)
        grid[-1].xaxis.set(major_locator=locator, major_formatter="{x:,.0f}")
        grid[-1].set_xlabel(unit)


def plot_predictions(path: Path, groups: dict[str, list[Prediction]]) -> None:
    """Draws each group of images under its title, with the predicted class and, if wrong, the right one."""
    row_counts = [max(0.2, math.ceil(len(predictions) / IMAGES_PER_ROW)) for predictions in groups.values()]
    heights = [COLUMN_INCHES * CELL_HEIGHT * count + TITLE_INCHES for count in row_counts]
    with picture(path, PAGE_INCHES, sum(heights)) as figure:
        parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, count, (title, predictions) in zip(parts, row_counts, groups.items(), strict=True):
            part.suptitle(title if predictions else f"{title}: none")
            axes = part.subplots()  # one for all images: the layout of one for each takes a second
            for number, prediction in enumerate(predictions):
                draw_prediction(axes, prediction, *divmod(number, IMAGES_PER_ROW))
            axes.set(xlim=(0, IMAGES_PER_ROW), ylim=(count * CELL_HEIGHT, 0))
            axes.axis("off")


def draw_prediction(axes, prediction: Prediction, row: int, column: int) -> None:
    pixels = prediction.image[..., :3] if prediction.image.shape[-1] >= 3 else prediction.image[..., 0]
    height, width = (IMAGE_SIDE * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    left, top = column + (1 - width) / 2, row * CELL_HEIGHT + IMAGE_TOP
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(left, left + width, top + height, top))
    guess = f"{shorten(prediction.predicted, MAX_LABEL_LENGTH)}, {format_percent(prediction.probability, 0)}"
    text, color = f"\N{CHECK MARK} {guess}", GREEN
    if prediction.predicted != prediction.label:
        label = shorten(prediction.label, MAX_LABEL_LENGTH)
        text, color = f"\N{BALLOT X} {guess}\nlabel: {label}", RED
    size = 9 if max(map(len, text.splitlines())) <= 19 else 7.5  # points; 24 characters of 7.5 fill a column
    axes.text(column + 0.5, top - 0.02, text, ha="center", va="bottom", fontsize=size, color=color)


def plot_confusion(path: Path, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draws `counts`, (classes, classes) integers, as shares of each class (row) by prediction (column)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3 + 0.45 * len(classes))
    # The constrained layout ignores the tick labels beside axes of fixed aspect.
    with picture(path, side + 1, side, bbox_inches="tight") as figure:
        axes = figure.subplots()
        heat_map = axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1)
        figure.colorbar(heat_map, ax=axes, label="share of the class", shrink=0.8)
        axes.set(xlabel="predicted", ylabel="class")
        if len(classes) <= MAX_CLASSES_WITH_NAMES:
            names = [shorten(name, MAX_NAME_LENGTH) for name in classes]
            axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
            axes.set_yticks(range(len(classes)), names)
        if len(classes) <= MAX_CLASSES_WITH_COUNTS:
            write_cells(axes, shares, [[f"{count:,}" if count else "" for count in row] for row in counts])


def write_cells(axes, shares: np.ndarray, texts: list[list[str]]) -> None:
    """Writes a text into each cell of a heat map, white where it is dark; empty texts are left out."""
    for (row, column), share in np.ndenumerate(shares):
        if text := texts[row][column]:
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
