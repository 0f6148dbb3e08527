"""The curves of a run, as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

LOSSES = (
    ("loss", "training batch", {"alpha": 0.5, "linewidth": 1}),
    ("validation_loss", "held out", {"marker": "o", "markersize": 4}),
)
ACCURACIES = (("accuracy", "held out", {"marker": "o", "markersize": 4}),)


def plot_loss(rows: list[dict], path: Path, *, unit: str, title: str) -> None:
    """Draws training and held-out loss, and accuracy where there is one, against what was seen.

    Args:
        rows: of metrics.jsonl.
        path: of the PNG file.
        unit: what the rows count, `tokens` or `images`.
        title: above the plot.
    """
    panels = [(f"loss, nats per {unit.removesuffix('s')}", LOSSES)]
    if any("accuracy" in row for row in rows):
        panels.append(("accuracy", ACCURACIES))
    figure = Figure(figsize=(7, 2.5 + 1.75 * len(panels)), layout="constrained")
    figure.suptitle(title)
    number, scale = ("million", 1e6) if max(row.get(unit, 0) for row in rows) >= 1e6 else ("thousand", 1e3)
    for axes, (label, curves) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for name, curve_label, style in curves:
            points = [(row[unit] / scale, row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=curve_label, **style)
        axes.set(xlabel=f"{number} {unit}", ylabel=label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120)
