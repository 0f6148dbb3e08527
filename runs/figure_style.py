"""Style of figures: dark on an opaque light background, readable on light and dark pages."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

PAPER, INK, FAINT = "#f7f6f2", "#1f2328", "#8a8f98"
BLUE, ORANGE, GREEN, PURPLE, RED = COLORS = ("#1f6fb2", "#c4560a", "#2e7d32", "#7b4ab5", "#b3273a")
# Colour maps for shares from 0 to 1 and for numbers of either sign.
SHARES, SIGNED = "Blues", "RdBu_r"
DPI = 100
STYLE = {
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor", "legend.facecolor"), PAPER),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.titlesize": "medium",
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.framealpha": 0.9,
    "legend.fontsize": "small",
}


def subplots(width: float, height: float, title: str, *shape: int, **options) -> tuple[Figure, Any]:
    """A figure, in inches, and its plots; `shape` and `options` are those of `Figure.subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(*shape, **options)


def draw(function: Callable[[], Figure], path: Path) -> None:
    """Writes the figure that `function` returns as a PNG, the same bytes each time."""
    with rc_context(STYLE):
        buffer = io.BytesIO()
        function().savefig(buffer, dpi=DPI, format="png")
    # A palette makes the file three times smaller; PIL writes neither date nor version.
    image = Image.open(buffer).convert("RGB")
    image = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(path, format="png", optimize=True)


def hide_ticks(axes: Axes, *, frame: bool = True) -> None:
    """Removes the ticks, and with `frame=False` the frame."""
    axes.set(xticks=[], yticks=[])
    if not frame:
        axes.spines[:].set_visible(False)
