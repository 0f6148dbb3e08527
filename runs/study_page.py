"""Page of a study: tables, figure and the values of each seed."""

import csv
import io
import json
import math
from datetime import date
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from runs.arguments import writing
from runs.figure_style import BLUE, FAINT, INK, MARKERS, draw, subplots
from runs.study import Study, Values
from system.errors import RunError
from system.files import write_text
from system.text import format_count

HAND_WRITTEN = "<!-- Written by hand from here on; `python -m scripts.study` does not change it. -->"
NEW_TEXT = "\n\n## What it means\n\nNot written yet.\n\n## Limits\n\nNot written yet.\n"
MAX_LABEL_LENGTH = 27


def write_page(study: Study, values: Values, pages: Path, *, machine: str) -> None:
    """Writes NAME.csv, NAME.png, and NAME.md, whose part written by hand stays as it is."""
    with writing(pages / f"{study.name}.md") as path:
        pages.mkdir(parents=True, exist_ok=True)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["variant", "seed", *study.columns])
        for name, results in values.items():
            writer.writerows([name, *row] for row in zip(study.seeds, *results.tolist(), strict=True))
        write_text(path.with_suffix(".csv"), table.getvalue())
        draw(lambda: figure_of(study, values), path.with_suffix(".png"))
        old = path.read_text(encoding="utf-8") if path.exists() else HAND_WRITTEN + NEW_TEXT
        _, marker, words = old.partition(HAND_WRITTEN)
        if not marker:
            raise RunError(f"{path} has no line {HAND_WRITTEN!r}: add it, or move the page")
        write_text(path, f"{page_text(study, values, machine)}\n{marker}{words}")


def page_text(study: Study, values: Values, machine: str) -> str:
    summaries = [run.directory / "summary.json" for run in study.all_runs()]
    day = date.fromtimestamp(max(path.stat().st_mtime for path in summaries))
    seconds = sum(json.loads(path.read_text(encoding="utf-8"))["elapsed_seconds"] for path in summaries)
    differences = paired_differences(study, values)
    others = ", or to the variant in parentheses" if differences.keys() - study.variants.keys() else ""
    arguments = " ".join(map(str, [study.name, *study.overrides, "--seeds", *study.seeds]))
    return f"""\
# {study.name.replace("_", " ").capitalize()}

{study.question}

## Setup

{study.setup}
The declaration is [configs/study/{study.name}.yaml](../../configs/study/{study.name}.yaml).

`python -m scripts.study {arguments}`: {len(summaries)} runs and
{seconds / 60:.0f} minutes of training on {machine}, {day}.

## Results

Mean over seeds and its 95 % confidence interval; [the values of each seed]({study.name}.csv).

{format_values(study, values)}

Differences to {study.reference}{others}, paired by seed:

{format_values(study, differences, sign="+")}

![{study.question}]({study.name}.png)
"""


def paired_differences(study: Study, values: Values) -> Values:
    """Values of each variant minus those of its reference, which the label names if it has its own."""
    differences = {}
    for name, results in values.items():
        reference = study.variant(name)["reference"]
        if name != reference:
            label = name if reference == study.reference else f"{name} ({reference})"
            differences[label] = results - values[reference]
    return differences


def format_values(study: Study, values: Values, *, sign: str = "") -> str:
    """Markdown table of the variants that have a value; with `sign="+"`, numbers have a sign."""
    specs = [sign + column.get("format", ".4f") for column in study.columns.values()]
    rows = [["", *study.columns], ["---", *["---:"] * len(specs)]]
    for name, results in values.items():
        if not np.isnan(results).all():
            rows.append([name, *map(format_cell, results, specs)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def format_cell(values: np.ndarray, spec: str) -> str:
    """`1.2345 ± 0.0067`, with the number of seeds if some have no value; `-` if none has one."""
    mean, half = mean_and_interval(values)
    count = np.count_nonzero(~np.isnan(values))
    if count == 0:
        return "-"
    text = f"{mean:{spec}}" + (f" ± {half:{spec.lstrip('+')}}" if count > 1 else "")
    return text if count == len(values) else f"{text} ({format_count(count, 'seed')})"


def mean_and_interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of the values that are not NaN and half of its 95 % confidence interval, NaN for one value."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return (known[0] if len(known) else math.nan), math.nan
    return known.mean(), stats.t.ppf(0.975, len(known) - 1) * stats.sem(known)


def figure_of(study: Study, values: Values) -> Figure:
    """Panels with a curve for each variant over several columns, or the paired differences in one column."""
    shape = len(study.figure), max(map(len, study.figure))
    title = f"{study.name.replace('_', ' ').capitalize()}: means and 95 % confidence intervals"
    figure, grid = subplots(0.8 + 3.5 * len(study.figure), title, *shape, squeeze=False)
    for axes, panel in zip(grid.flat, [panel for row in study.figure for panel in row], strict=True):
        names, is_curve = panel["columns"], len(panel["columns"]) > 1
        columns = [list(study.columns).index(name) for name in names]
        series = values if is_curve else paired_differences(study, values)
        series = {name: series[name][columns] for name in panel.get("variants", series)}
        series = {name: rows for name, rows in series.items() if not np.isnan(rows).all()}
        number = study.columns[names[0]].get("format", "g")
        axes.set(title=panel.get("title", ""), xlabel=panel.get("x", ""), ylabel=panel.get("y", ""))
        axes.grid()
        if is_curve:
            draw_curves(axes, series)
            axes.set_xticks(range(len(names)), panel.get("ticks", names))
            axes.yaxis.set_major_formatter(f"{{x:{number}}}")
            if number.endswith("%"):  # intervals of a share may exceed it
                axes.set_ylim(-0.05, 1.05)
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
        else:
            draw_differences(axes, series)
            own = any(name not in study.variants for name in series)  # a label names its own reference
            axes.set_xlabel(
                f"{axes.get_xlabel()}\ndifference to {study.reference}{', or (variant)' if own else ''}"
            )
            axes.xaxis.set(major_locator=MaxNLocator(4), major_formatter=f"{{x:+{number}}}")
    return figure


def draw_curves(axes: Axes, series: Values) -> None:
    """Draws the means of each variant's (columns, seeds) values and their intervals."""
    for number, (name, rows) in enumerate(series.items()):
        means, halves = np.transpose([mean_and_interval(seeds) for seeds in rows])
        places = np.arange(len(rows)) + 0.03 * (number - len(series) / 2)  # side by side
        style = {"marker": MARKERS[number % len(MARKERS)], "markersize": 4, "capsize": 2, "label": name}
        axes.errorbar(places, means, yerr=halves, **style)


def draw_differences(axes: Axes, series: Values) -> None:
    """Draws the mean of each variant's (1, seeds) differences and its interval, and a dot for each seed."""
    for number, (seeds,) in enumerate(series.values()):
        mean, half = mean_and_interval(seeds)
        axes.plot(seeds, np.full(len(seeds), number + 0.25), ".", color=FAINT, markersize=4)
        axes.errorbar(mean, number, xerr=half, color=BLUE, marker="o", markersize=4, capsize=2)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(series)), [fill(name, MAX_LABEL_LENGTH) for name in series])
    axes.invert_yaxis()
