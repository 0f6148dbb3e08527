"""How the figures look: dark ink on a paper of their own, to be read on a light page and on a dark one."""

import io
from collections.abc import Callable
from pathlib import Path

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from PIL import Image

PAPER, INK, FAINT = "#f7f6f2", "#1f2328", "#8a8f98"
BLUE, ORANGE, GREEN, PURPLE, RED = COLORS = ("#1f6fb2", "#c4560a", "#2e7d32", "#7b4ab5", "#b3273a")
# Of shares, from 0, and of numbers of either sign.
SHARES, SIGNED = "Blues", "RdBu_r"
DPI = 100
LOOK = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.framealpha": 0.9,
    "legend.facecolor": PAPER,
    "legend.fontsize": "small",
}


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure


def draw(function: Callable[..., Figure], path: Path, **options: object) -> None:
    """Writes the figure that `function(**options)` makes: the same bytes for the same versions."""
    with rc_context(LOOK):
        buffer = io.BytesIO()
        function(**options).savefig(buffer, dpi=DPI, format="png")
    # A palette makes the file three times smaller. No date and no version is written.
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def without(name: str) -> Colormap:
    """A colour map that shows what is not there as grey."""
    return colormaps[name].with_extremes(bad="#d9d8d2")


def plain_logs(axes: Axes) -> None:
    """Writes the numbers of a logarithmic y axis out."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def bare(axes: Axes) -> None:
    """Axes without ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
