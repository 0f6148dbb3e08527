"""Figures of docs/context_extension.md, drawn from the measurements beside it."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runs.figure_style import FAINT, INK, subplots

RESULTS = Path(__file__).resolve().parents[1] / "context_extension"
SCALINGS = {"linear": "interpolation", "ntk": "NTK-aware", "yarn": "YaRN"}
VARIANTS = {"direct": "no scaling", **SCALINGS}
ZERO_SHOT = {"none": "no scaling", **SCALINGS, "dynamic": "dynamic NTK"}
WINDOWS = ("128", "256", "512", "1,024", "2,048")


def context_extension() -> Figure:
    """Losses of the fine-tuned models and of the base under scalings, and the cost of the fine-tune."""
    title = "Held-out loss in nats per byte: mean and standard deviation of three seeds"
    figure, ((tuned_axes, cost_axes), (base_axes, long_axes)) = subplots(8.5, 7.5, title, 2, 2)
    control = losses("continued")
    tuned = {name: losses(variant) for variant, name in VARIANTS.items()}
    draw_series(tuned_axes, WINDOWS[:2], {"continued at 256": control[:, :2]}, color=INK)
    draw_series(tuned_axes, WINDOWS[:4], {name: values[:, :4] for name, values in tuned.items()})
    tuned_axes.set(title="fine-tuned at 1,024", ylim=(0.96, 1.16))
    costs = [(values - control[:, [0, 1, 2, 1, 4]])[:, [0, 1, 3]] for values in tuned.values()]
    places = ("128", "256", "1,024,\nminus 256")
    draw_series(cost_axes, places, dict(zip(tuned, costs, strict=True)), linestyle="none")
    cost_axes.axhline(0, color=FAINT)
    cost_axes.set(title="fine-tuned, minus continued at 256", ylim=(0, None))
    base = {name: losses("base", scaling) for scaling, name in ZERO_SHOT.items()}
    draw_series(base_axes, WINDOWS, base)
    base_axes.set(title="trained at 256, scaled without training")
    draw_series(long_axes, WINDOWS[3:], {name: values[:, 3:] for name, values in tuned.items()})
    long_axes.set(title="fine-tuned at 1,024, beyond")
    tuned_axes.legend(loc="center left", bbox_to_anchor=(0, 0.58))
    base_axes.legend()
    return figure


def losses(variant: str, scaling: str = "none") -> np.ndarray:
    """(seeds, windows) nats per byte of the study."""
    table = read_table("results.csv")
    chosen = (table["variant"] == variant) & (table["zero_shot"] == scaling) & (table["attention"] == "full")
    rows = np.sort(table[chosen], order=["seed", "window"])
    return rows["nats_per_token"].reshape(-1, len(WINDOWS))


def draw_series(axes: Axes, places: tuple[str, ...], series: dict[str, np.ndarray], **style) -> None:
    """Draws the mean and standard deviation of (seeds, places) values, side by side at each place."""
    for number, ((name, values), marker) in enumerate(zip(series.items(), "os^vD", strict=False)):
        columns = np.arange(len(places)) + 0.015 * len(places) * (number - len(series) / 2)
        options = {"label": name, "marker": marker, "markersize": 5, "capsize": 2, **style}
        axes.errorbar(columns, values.mean(axis=0), yerr=values.std(axis=0, ddof=1), **options)
    axes.set_xticks(range(len(places)), places)
    axes.set_xlabel("window of context, tokens")
    axes.grid(axis="y")


def read_passkeys() -> list[dict]:
    """Rows for `evaluate_passkey.plot_rows`; the name of each run is that of its scaling."""
    table = read_table("passkey.csv")
    return [dict(zip(table.dtype.names, row.item(), strict=True)) for row in table]


def read_table(name: str) -> np.ndarray:
    return np.genfromtxt(RESULTS / name, delimiter=",", names=True, dtype=None, encoding="utf-8")
