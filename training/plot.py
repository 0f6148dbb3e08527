"""The loss curve of a run, as a picture."""

from pathlib import Path

from matplotlib.figure import Figure


def plot_loss(rows: list[dict], path: Path, *, title: str) -> None:
    """Draws training and validation loss, in nats per token, against tokens seen.

    Args:
        rows: of metrics.jsonl.
        path: of the PNG file.
        title: above the plot.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (
        ("loss", "training batch", {"alpha": 0.5, "linewidth": 1}),
        ("validation_loss", "validation", {"marker": "o", "markersize": 4}),
    ):
        points = [(row["tokens"] / 1e6, row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="million tokens", ylabel="loss, nats per token", title=title)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)
