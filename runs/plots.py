"""Pictures of runs and evaluations."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from system.files import replacing

# Column of metrics.jsonl, its label and its line style.
LOSS_CURVES = (
    ("loss", "training batch", {"alpha": 0.5, "linewidth": 1}),
    ("validation_loss", "held out", {"marker": "o", "markersize": 4}),
)
ACCURACY_CURVES = (("accuracy", "held out", {"marker": "o", "markersize": 4}),)
CURVE_MARKERS = "os^vDXP*"

IMAGES_PER_ROW = 8
COLUMN_INCHES, TITLE_INCHES = 1.3, 0.4
# In widths of a column: height of an image with its label, side of the image, and its distance from the top.
CELL_HEIGHT, IMAGE_SIDE, IMAGE_TOP = 1.35, 0.94, 0.33

MAX_CLASSES_WITH_COUNTS, MAX_CLASSES_WITH_NAMES = 20, 40
MAX_NAME_LENGTH = 14

# Names of runs and classes may contain dollars, which are no formulas.
without_formulas = rc_context({"text.parse_math": False})


class Prediction(NamedTuple):
    """An image, (height, width, channels) uint8, its class, the predicted class and its probability."""

    image: np.ndarray
    label: str
    predicted: str
    probability: float


@without_formulas
def plot_loss(rows: list[dict], path: Path, *, unit: str, title: str) -> None:
    """Draws training and held-out loss, and the accuracy if there is one, against tokens or images seen.

    Args:
        rows: rows of metrics.jsonl.
        path: path of the PNG file.
        unit: column of the horizontal axis, `tokens` or `images`.
        title: title of the figure.
    """
    panels = [(f"loss, nats per {unit.removesuffix('s')}", LOSS_CURVES)]
    if any("accuracy" in row for row in rows):
        panels.append(("accuracy", ACCURACY_CURVES))
    figure = Figure(figsize=(7, 2.5 + 1.75 * len(panels)), layout="constrained")
    figure.suptitle(title)
    number, scale = ("million", 1e6) if max(row.get(unit, 0) for row in rows) >= 1e6 else ("thousand", 1e3)
    grid = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(grid, panels, strict=True):
        for column, curve_label, style in curves:
            points = [(row[unit] / scale, row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=curve_label, **style)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    grid[-1].set_xlabel(f"{number} {unit}")
    save(figure, path, dpi=120)


@without_formulas
def plot_windows(curves: dict[str, list[tuple]], path: Path, *, trained_lengths: list[int]) -> None:
    """Draws the held-out loss against the window of context.

    Args:
        curves: label of each curve and its points `(window, loss, standard_error)`, in tokens and nats per
            token; an error may be NaN.
        path: path of the PNG, SVG or PDF file.
        trained_lengths: context lengths of the models in tokens, each drawn as a vertical line.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for length in trained_lengths:
        axes.axvline(length, color="grey", linestyle="--", linewidth=1)
    for (label, points), marker in zip(curves.items(), itertools.cycle(CURVE_MARKERS), strict=False):
        windows, losses, errors = zip(*points, strict=True)
        style = {"marker": marker, "markersize": 5, "capsize": 3, "alpha": 0.8}
        axes.errorbar(windows, losses, yerr=errors, label=label, **style)
    windows = sorted({window for points in curves.values() for window, _, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(windows, [f"{window:,}" for window in windows])
    axes.minorticks_off()
    lengths = ", ".join(f"{length:,}" for length in trained_lengths)
    axes.set_xlabel(f"window of context, tokens (dashed: trained length {lengths})")
    axes.set_ylabel("loss, nats per token")
    axes.set_title("Held-out loss by window; bars are one standard error")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    save(figure, path, dpi=120)


@without_formulas
def plot_passkeys(panels: list[dict], path: Path) -> None:
    """Draws the share of passkeys found by context length and depth, one heat map for each run and scaling.

    Args:
        panels: dictionaries of `label`, `lengths`, `depths` in 0 to 1, and `accuracies`, (depths, lengths).
        path: path of the PNG file.
    """
    widths = [len(panel["lengths"]) for panel in panels]
    rows = max(len(panel["depths"]) for panel in panels)
    figure = Figure(figsize=(2 + 0.9 * sum(widths) + len(panels), 1.5 + 0.35 * rows), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, panel in zip(grid, panels, strict=True):
        shares = np.asarray(panel["accuracies"])
        heat_map = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        write_cells(axes, shares, [[f"{share:.0%}" for share in row] for row in shares])
        axes.set_xticks(range(len(panel["lengths"])), [f"{length:,}" for length in panel["lengths"]])
        axes.set_yticks(range(len(panel["depths"])), [f"{depth:.0%}" for depth in panel["depths"]])
        axes.set_title(panel["label"], fontsize="medium")
        axes.set(xlabel="context, tokens", ylabel="depth of the key")
    figure.colorbar(heat_map, ax=list(grid), label="keys found")
    save(figure, path, dpi=120)


@without_formulas
def plot_predictions(path: Path, groups: dict[str, list[Prediction]]) -> None:
    """Draws each group of images under its title, with the predicted class in green or red."""
    row_counts = [max(1, math.ceil(len(predictions) / IMAGES_PER_ROW)) for predictions in groups.values()]
    heights = [COLUMN_INCHES * CELL_HEIGHT * count + TITLE_INCHES for count in row_counts]
    figure = Figure(figsize=(COLUMN_INCHES * IMAGES_PER_ROW, sum(heights)), layout="constrained")
    subfigures = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for subfigure, count, (title, predictions) in zip(subfigures, row_counts, groups.items(), strict=True):
        subfigure.suptitle(title if predictions else f"{title}: none")
        axes = subfigure.subplots()  # one for all images: the layout of one for each takes a second
        for number, prediction in enumerate(predictions):
            draw_prediction(axes, prediction, *divmod(number, IMAGES_PER_ROW))
        axes.set(xlim=(0, IMAGES_PER_ROW), ylim=(count * CELL_HEIGHT, 0))
        axes.axis("off")
    save(figure, path, dpi=100)


def draw_prediction(axes: Axes, prediction: Prediction, row: int, column: int) -> None:
    pixels = prediction.image[..., :3] if prediction.image.shape[-1] >= 3 else prediction.image[..., 0]
    height, width = (IMAGE_SIDE * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    left, top = column + (1 - width) / 2, row * CELL_HEIGHT + IMAGE_TOP
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(left, left + width, top + height, top))
    label, color = f"{shorten(prediction.predicted)}, {prediction.probability:.0%}", "tab:green"
    if prediction.predicted != prediction.label:
        label, color = f"{label}\nis {shorten(prediction.label)}", "tab:red"
    axes.text(column + 0.5, top - 0.02, label, ha="center", va="bottom", fontsize=8, color=color)


def shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


@without_formulas
def plot_confusion(path: Path, counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draws the confusion matrix: shares of each class (row) by predicted class (column).

    Args:
        path: path of the PNG file.
        counts: (classes, classes) integers.
        classes: class names.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3 + 0.45 * len(classes))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    heat_map = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(heat_map, ax=axes, label="share of the class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="class")
    if len(classes) <= MAX_CLASSES_WITH_NAMES:
        names = [shorten(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= MAX_CLASSES_WITH_COUNTS:
        write_cells(axes, shares, [[f"{count:,}" if count else "" for count in row] for row in counts])
    # The constrained layout ignores the tick labels beside axes of fixed aspect.
    save(figure, path, dpi=100, bbox_inches="tight")


def write_cells(axes: Axes, shares: np.ndarray, texts: list[list[str]]) -> None:
    """Writes a text into each cell of a heat map, white where it is dark; empty texts are left out."""
    for (row, column), share in np.ndenumerate(shares):
        if text := texts[row][column]:
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)


@without_formulas
def plot_image_sizes(path: Path, accuracies: dict[str, dict[tuple[int, int], float]]) -> None:
    """Draws the accuracy of each run against the image size, in order of the number of pixels.

    Args:
        path: path of the PNG file.
        accuracies: accuracy of each run by `(height, width)`.
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
    save(figure, path, dpi=120)


def save(figure: Figure, path: Path, **options) -> None:
    """Writes the figure to `path` in one step, in the format of its suffix."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), **options)
