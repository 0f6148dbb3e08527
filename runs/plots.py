"""Pictures of runs."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from configs.run_table import shorten
from system.files import replacing
from system.text import format_percent

DPI = 100
# Style of the curve of each column of metrics.jsonl.
HELD_OUT = {"label": "held out", "marker": "o", "markersize": 4}
CURVES = {
    "loss": {"label": "training batch", "alpha": 0.5, "linewidth": 1},
    "validation_loss": HELD_OUT,
    "accuracy": HELD_OUT,
}

IMAGES_PER_ROW = 8
COLUMN_INCHES, TITLE_INCHES = 1.3, 0.4
# Height of an image with its label, side of the image, and its distance from the top, in column widths.
CELL_HEIGHT, IMAGE_SIDE, IMAGE_TOP = 1.35, 0.94, 0.33

MAX_CLASSES_WITH_COUNTS, MAX_CLASSES_WITH_NAMES = 20, 40
MAX_NAME_LENGTH = 14


class Prediction(NamedTuple):
    """An image, (height, width, channels) uint8, its class, the predicted class and its probability."""

    image: np.ndarray
    label: str
    predicted: str
    probability: float


@contextlib.contextmanager
def picture(path: Path, width: float, height: float, **options) -> Iterator[Figure]:
    """Yields an empty figure, in inches, and writes it as PNG; `options` are those of `savefig`."""
    with rc_context({"text.parse_math": False}):  # names of runs and classes may contain dollar signs
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a letter without one becomes a box
            figure.savefig(temporary, format="png", dpi=DPI, **options)


def plot_loss(rows: list[dict], path: Path, *, unit: str, title: str) -> None:
    """Draws training and held-out loss, and the accuracy if there is one, against tokens or images seen.

    `rows` are those of metrics.jsonl; `unit` is the column of the horizontal axis, `tokens` or `images`.
    """
    panels = {f"loss, nats per {unit.removesuffix('s')}": ("loss", "validation_loss")}
    if any("accuracy" in row for row in rows):
        panels["accuracy"] = ("accuracy",)
    number, scale = ("million", 1e6) if max(row.get(unit, 0) for row in rows) >= 1e6 else ("thousand", 1e3)
    with picture(path, 7, 2.5 + 1.75 * len(panels)) as figure:
        figure.suptitle(title)
        grid = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (label, columns) in zip(grid, panels.items(), strict=True):
            for column in columns:
                points = [(row[unit] / scale, row[column]) for row in rows if column in row]
                if points:
                    axes.plot(*zip(*points, strict=True), **CURVES[column])
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
        grid[-1].set_xlabel(f"{number} {unit}")


def plot_predictions(path: Path, groups: dict[str, list[Prediction]]) -> None:
    """Draws each group of images under its title, with the predicted class in green or red."""
    row_counts = [max(1, math.ceil(len(predictions) / IMAGES_PER_ROW)) for predictions in groups.values()]
    heights = [COLUMN_INCHES * CELL_HEIGHT * count + TITLE_INCHES for count in row_counts]
    with picture(path, COLUMN_INCHES * IMAGES_PER_ROW, sum(heights)) as figure:
        parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, count, (title, predictions) in zip(parts, row_counts, groups.items(), strict=True):
            part.suptitle(title if predictions else f"{title}: none")
            axes = part.subplots()  # one for all images: the layout of one for each takes a second
            for number, prediction in enumerate(predictions):
                draw_prediction(axes, prediction, *divmod(number, IMAGES_PER_ROW))
            axes.set(xlim=(0, IMAGES_PER_ROW), ylim=(count * CELL_HEIGHT, 0))
            axes.axis("off")


def draw_prediction(axes: Axes, prediction: Prediction, row: int, column: int) -> None:
    pixels = prediction.image[..., :3] if prediction.image.shape[-1] >= 3 else prediction.image[..., 0]
    height, width = (IMAGE_SIDE * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    left, top = column + (1 - width) / 2, row * CELL_HEIGHT + IMAGE_TOP
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(left, left + width, top + height, top))
    predicted, color = shorten(prediction.predicted, MAX_NAME_LENGTH), "tab:green"
    label = f"{predicted}, {format_percent(prediction.probability, 0)}"
    if prediction.predicted != prediction.label:
        label, color = f"{label}\nis {shorten(prediction.label, MAX_NAME_LENGTH)}", "tab:red"
    axes.text(column + 0.5, top - 0.02, label, ha="center", va="bottom", fontsize=8, color=color)


def plot_confusion(path: Path, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draws `counts`, (classes, classes) integers, as shares of each class (row) by prediction (column)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3 + 0.45 * len(classes))
    # The constrained layout ignores the tick labels beside axes of fixed aspect.
    with picture(path, side + 1, side, bbox_inches="tight") as figure:
        axes = figure.subplots()
        heat_map = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(heat_map, ax=axes, label="share of the class", shrink=0.8)
        axes.set(xlabel="predicted", ylabel="class")
        if len(classes) <= MAX_CLASSES_WITH_NAMES:
            names = [shorten(name, MAX_NAME_LENGTH) for name in classes]
            axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
            axes.set_yticks(range(len(classes)), names)
        if len(classes) <= MAX_CLASSES_WITH_COUNTS:
            write_cells(axes, shares, [[f"{count:,}" if count else "" for count in row] for row in counts])


def write_cells(axes: Axes, shares: np.ndarray, texts: list[list[str]]) -> None:
    """Writes a text into each cell of a heat map, white where it is dark; empty texts are left out."""
    for (row, column), share in np.ndenumerate(shares):
        if text := texts[row][column]:
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
