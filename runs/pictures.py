"""What a classifier makes of images, as pictures."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 8
COLUMN_INCHES, TITLE_INCHES = 1.3, 0.4
# Of a picture and what is written above it, in widths of a column.
CELL_HEIGHT, SIDE, PICTURE_TOP = 1.35, 0.94, 0.33
MAX_NUMBERED_CLASSES = 20
MAX_NAMED_CLASSES = 40
LONGEST_NAME = 14


# A class may be called "$5".
plain_names = rc_context({"text.parse_math": False})


class Prediction(NamedTuple):
    """An image, (height, width, channels) uint8, its class, the class that was predicted, and how surely."""

    image: np.ndarray
    label: str
    predicted: str
    probability: float


@plain_names
def plot_predictions(path: Path, groups: dict[str, list[Prediction]]) -> None:
    """Draws each group of images under its title, with the predicted class; wrong ones in red."""
    rows = [max(1, math.ceil(len(predictions) / COLUMNS)) for predictions in groups.values()]
    heights = [COLUMN_INCHES * CELL_HEIGHT * count + TITLE_INCHES for count in rows]
    figure = Figure(figsize=(COLUMN_INCHES * COLUMNS, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, count, (title, predictions) in zip(parts, rows, groups.items(), strict=True):
        part.suptitle(title if predictions else f"{title}: none")
        axes = part.subplots()  # one for all: to lay out one for each picture takes a second
        for number, prediction in enumerate(predictions):
            draw(axes, prediction, *divmod(number, COLUMNS))
        axes.set(xlim=(0, COLUMNS), ylim=(count * CELL_HEIGHT, 0))
        axes.axis("off")
    figure.savefig(path, dpi=100)


def draw(axes: Axes, prediction: Prediction, row: int, column: int) -> None:
    image = prediction.image
    shown = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    height, width = (SIDE * side / max(shown.shape[:2]) for side in shown.shape[:2])
    left, top = column + (1 - width) / 2, row * CELL_HEIGHT + PICTURE_TOP
    extent = (left, left + width, top + height, top)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=extent)
    is_right = prediction.predicted == prediction.label
    name = shortened(prediction.predicted)
    title = f"{name}, {prediction.probability:.0%}"
    if not is_right:
        title += f"\nis {shortened(prediction.label)}"
    color = "tab:green" if is_right else "tab:red"
    axes.text(column + 0.5, top - 0.02, title, ha="center", va="bottom", fontsize=8, color=color)


def shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


@plain_names
def plot_confusion(path: Path, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draws how often each class (row) was taken for each (column), as shares of the row.

    Args:
        path: of the PNG file.
        counts: (classes, classes) integers.
        classes: their names.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3 + 0.45 * len(classes))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="class")
    if len(classes) <= MAX_NAMED_CLASSES:
        names = [shortened(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= MAX_NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=color)
    # The layout forgets the labels beside axes that keep their aspect.
    figure.savefig(path, dpi=100, bbox_inches="tight")


@plain_names
def plot_resolution(path: Path, accuracies: dict[str, dict[tuple[int, int], float]]) -> None:
    """Draws accuracy against image size, from few pixels to many, one step a size.

    Args:
        path: of the PNG file.
        accuracies: of each run, by the height and width of the images.
    """
    sizes = sorted({size for by_size in accuracies.values() for size in by_size})
    sizes.sort(key=math.prod)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run, by_size in accuracies.items():
        axes.plot(range(len(sizes)), [by_size[size] for size in sizes], marker="o", label=run)
    axes.set(xlabel="image size, height x width in pixels", ylabel="held-out accuracy")
    axes.set_xticks(range(len(sizes)), [f"{height}x{width}" for height, width in sizes])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
