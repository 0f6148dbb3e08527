"""Style of all figures: dark on an opaque light background, readable on light and dark pages.

Functions import matplotlib, which takes half a second: commands start without it.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from system.files import replacing

PAPER, INK, FAINT = "#f7f6f2", "#1f2328", "#8a8f98"
BLUE, ORANGE, GREEN, RED = "#1f6fb2", "#c4560a", "#2e7d32", "#b3273a"
COLORS = BLUE, ORANGE, GREEN, "#7b4ab5", RED, "#00808a", "#7a5a2b", "#c2379c", "#5b6472"
MARKERS = "os^vDXP*"
# Color maps for shares from 0 to 1 and for numbers of either sign.
SHARES, SIGNED = "Blues", "RdBu_r"
# A page of GitHub shows 850 pixels: a wider figure is shrunk, and its text with it.
DPI, PAGE_INCHES = 100, 8.5
STYLE = {
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor", "legend.facecolor"), PAPER),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.titlesize": 9.5,
    "axes.formatter.useoffset": False,
    "axes.prop_cycle": f"cycler('color', {[*COLORS]})",
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.framealpha": 0.9,
    "legend.fontsize": "small",
}


def subplots(height: float, title: str, *shape: int, **options) -> tuple[Any, Any]:
    """A figure as wide as a page, and its plots; `shape` and `options` are those of `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PAGE_INCHES, height), layout="compressed")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # inches
    figure.suptitle(title)
    return figure, figure.subplots(*shape, **options)


def draw(function: Callable[[], Any], path: Path) -> None:
    """Writes the figure that `function` returns as a PNG, the same bytes each time."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        buffer = io.BytesIO()
        function().savefig(buffer, dpi=DPI, format="png")
    # A palette makes the file three times smaller; PIL writes neither date nor version.
    image = Image.open(buffer).convert("RGB").quantize(dither=Image.Dither.NONE)
    image.save(path, format="png", optimize=True)


@contextlib.contextmanager
def picture(path: Path, width: float, height: float, **options) -> Iterator[Any]:
    """Yields an empty figure, in inches, and writes it as PNG; `options` are those of `savefig`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Names of runs and classes may contain dollar signs.
    with rc_context({**STYLE, "text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a letter without one becomes a box
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None}, **options)
