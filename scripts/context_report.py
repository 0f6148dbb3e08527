"""What came out of the study of context extension: means over seeds, tables, the figure and the page."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.context_plan import BASE_LENGTH, CONTROL, EXTENDED, EXTENDED_LENGTH, SCALINGS, WINDOWS, Part
from training.errors import RunError
from training.plot import plot_context_panels

PAGE = "context_extension.md"
FIGURE = "context_extension.png"
RESULTS = Path("context_extension") / "results.csv"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
EMPTY_PAGE = f"# Extending the context\n\n{BEGIN}\n{END}\n"

BASE = f"the base, trained at {BASE_LENGTH}"
CONTINUED = f"the base, continued at {BASE_LENGTH}"
NAMES = {
    "none": "no scaling",
    "direct": "no scaling",
    "linear": "positional interpolation",
    "ntk": "NTK-aware",
    "dynamic": "dynamic NTK",
    "yarn": "YaRN",
}
XPOS_NAMES = {"base": "RoPE", "xpos": "xPos"}
ATTENTIONS = ("full", "blockwise-causal")
SHORT = [window for window in WINDOWS if window <= BASE_LENGTH]
BEYOND = [window for window in WINDOWS if window > BASE_LENGTH]


@dataclass(frozen=True)
class Report:
    """What the page says.

    Attributes:
        rows: of `read_results`.
        seconds: that all parts have taken.
        date: when the last of them ended.
        machine: on which it ran, in words.
    """

    rows: list[dict]
    seconds: float
    date: str
    machine: str

    def losses(
        self, variant: str, window: int, *, zero_shot: str = "none", attention: str = "full"
    ) -> list[float]:
        """In nats per byte, by ascending seed."""
        wanted = (variant, window, zero_shot, attention)
        keys = ("variant", "window", "zero_shot", "attention")
        rows = [row for row in self.rows if tuple(row[key] for key in keys) == wanted]
        return [row["nats_per_token"] for row in sorted(rows, key=lambda row: row["seed"])]


def read_results(evaluations: Iterable[Part]) -> list[dict]:
    """The rows of all evaluations, each with its `variant` and `seed`.

    Raises:
        RunError: if they have not all predicted the same number of targets of as many documents.
    """
    rows = []
    for part in evaluations:
        with open(part.result, encoding="utf-8", newline="") as file:
            rows += [{"variant": part.variant, "seed": part.seed, **row} for row in csv.DictReader(file)]
    for row in rows:
        del row["run"]
        row["window"], row["nats_per_token"] = int(row["window"]), float(row["nats_per_token"])
    for key in ("targets", "documents", "stride"):
        values = sorted({row[key] for row in rows})
        if len(values) > 1:
            raise RunError(
                f"the evaluations differ in their {key}: {', '.join(values)}. Use another --output-dir"
            )
    return rows


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the standard deviation of a sample: NaN for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def cell(values: Sequence[float], *, sign: str = "") -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")


def differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(windows: Iterable[int]) -> list[str]:
    return [f"{window:,}" for window in windows]


def trained_table(report: Report) -> str:
    variants = {"base": BASE, CONTROL: CONTINUED, **{variant: NAMES[variant] for variant in EXTENDED}}
    rows = [
        [name, *(cell(report.losses(variant, window)) for window in WINDOWS)]
        for variant, name in variants.items()
    ]
    return table([f"fine-tuned at {EXTENDED_LENGTH:,} with", *columns(WINDOWS)], rows)


def zero_shot_table(report: Report) -> str:
    rows = [
        [NAMES[scaling], *(cell(report.losses("base", window, zero_shot=scaling)) for window in BEYOND)]
        for scaling in ("none", *SCALINGS)
    ]
    return table(["the base without training, under", *columns(BEYOND)], rows)


def cost_table(report: Report) -> str:
    """Differences to the control of the same seed: at the same window, and at the one it was trained with."""
    rows = []
    for variant in EXTENDED:
        pairs = [(window, window) for window in SHORT] + [(EXTENDED_LENGTH, BASE_LENGTH)]
        found = (differences(report.losses(variant, a), report.losses(CONTROL, b)) for a, b in pairs)
        rows.append([NAMES[variant], *(cell(values, sign="+") for values in found)])
    gain = f"{EXTENDED_LENGTH:,}, against {BASE_LENGTH}"
    return table([f"fine-tuned at {EXTENDED_LENGTH:,} with", *columns(SHORT), gain], rows)


def xpos_table(report: Report) -> str:
    seed = min(row["seed"] for row in report.rows if row["variant"] == "xpos")
    of_seed = Report([row for row in report.rows if row["seed"] == seed], 0, "", "")
    rows = [
        [
            f"{name}, {attention}",
            *(cell(of_seed.losses(variant, window, attention=attention)) for window in WINDOWS),
        ]
        for variant, name in XPOS_NAMES.items()
        for attention in ATTENTIONS
    ]
    return table([f"trained at {BASE_LENGTH}, attention", *columns(WINDOWS)], rows)


def results_text(report: Report) -> str:
    """What stands between the markers of the page."""
    seeds = sorted({row["seed"] for row in report.rows})
    row = report.rows[0]
    targets, documents = int(row["targets"]), int(row["documents"])
    made = (
        f"Made on {report.date} in {report.seconds / 60:.0f} minutes on {report.machine}. Each number is "
        f"over the same {targets:,} bytes of {documents:,} held-out documents, with a stride of "
        f"{row['stride']}: a mean over the seeds {', '.join(map(str, seeds))} ± their standard deviation."
    )
    sections = {
        "Fine-tuned": ("Nats per byte by window of context.", trained_table(report)),
        "Without training": (
            f"Nats per byte; for each window the factor is window / {BASE_LENGTH}.",
            zero_shot_table(report),
        ),
        "Cost and gain": (
            "Nats per byte, minus those of the base of the same seed continued at "
            f"{BASE_LENGTH} on as many bytes; below zero is better. The first columns compare the same "
            f"window; the last is what {EXTENDED_LENGTH:,} bytes of context bring over {BASE_LENGTH}.",
            cost_table(report),
        ),
        "xPos": ("Nats per byte, of one seed.", xpos_table(report)),
    }
    parts = [made, f"![Loss by window of context]({FIGURE})"]
    for title, (text, of_section) in sections.items():
        parts += [f"### {title}", text, of_section]
    return "\n\n".join(parts)


def curve(
    report: Report, label: str, variant: str, windows: Iterable[int], *, zero_shot: str = "none"
) -> dict:
    windows = list(windows)
    found = [mean_and_spread(report.losses(variant, window, zero_shot=zero_shot)) for window in windows]
    losses, errors = map(list, zip(*found, strict=True))
    return {"label": label, "windows": windows, "losses": losses, "errors": errors}


def draw(report: Report, path: Path) -> None:
    short = [curve(report, BASE, "base", SHORT), curve(report, CONTINUED, CONTROL, SHORT)]
    trained = [curve(report, NAMES[variant], variant, WINDOWS) for variant in EXTENDED]
    zero_shot = [
        curve(report, NAMES[scaling], "base", WINDOWS, zero_shot=scaling) for scaling in ("none", *SCALINGS)
    ]
    panels = {f"fine-tuned at {EXTENDED_LENGTH:,}": [*short, *trained], "without training": zero_shot}
    lengths = [BASE_LENGTH, EXTENDED_LENGTH]
    plot_context_panels(panels, path, trained_lengths=lengths, bars="one standard deviation over seeds")


def check_page(docs_dir: Path) -> str:
    """The page, or an empty one; RunError if it has no place for the results."""
    path = docs_dir / PAGE
    text = path.read_text(encoding="utf-8") if path.exists() else EMPTY_PAGE
    if not (text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)):
        raise RunError(f"{path} has no place for the results: it needs a line {BEGIN} and, after it, {END}")
    return text


def with_results(page: str, results: str) -> str:
    """The page with other text between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{rest.split(END)[1]}"


def write_report(report: Report, docs_dir: Path) -> list[Path]:
    """Writes rows, figure and page; their paths."""
    page, figure, results = docs_dir / PAGE, docs_dir / FIGURE, docs_dir / RESULTS
    results.parent.mkdir(parents=True, exist_ok=True)
    with open(results, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(report.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(report.rows)
    draw(report, figure)
    page.write_text(with_results(check_page(docs_dir), results_text(report)), encoding="utf-8")
    return [results, figure, page]
