"""Studies: a question answered by runs that differ in a few keys, over several seeds.

`configs/study/NAME.yaml` declares a study; docs/studies/README.md explains its keys. `train.py` trains
each run and the scripts measure it, in processes of their own; what they write as JSON becomes a table. What
is done is skipped: a study resumes, and a changed declaration repeats only what it changes.
"""

import functools
import hashlib
import json
import math
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import yaml

from configs.compose import compose
from configs.sweep import run_job
from runs.arguments import writing
from system.errors import ConfigError, RunError
from system.files import delete, has_complete_summary, read_json_lines, write_text
from system.text import ROOT, did_you_mean, format_count, print_line, print_note

DECLARATIONS = ROOT / "configs" / "study"
# Values of all keys but those of a parent, since another default gives another run.
composed = functools.cache(lambda overrides: compose(list(overrides)))
Values = dict[str, np.ndarray]  # of each variant, (columns, seeds)


@dataclass(frozen=True)
class Run:
    """A run of train.py; `seconds` is its approximate duration, with its evaluation."""

    directory: Path
    overrides: tuple[str, ...]
    steps: int
    seconds: float
    parent: "Run | None"

    def read_record(self) -> dict:
        """Overrides, digest of what determines the result, and rows by command line; empty for a new run."""
        path = self.directory.with_name(f"{self.directory.name}.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def write_record(self, record: dict) -> None:
        with writing(self.directory.with_name(f"{self.directory.name}.json"), quiet=True) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(record, indent=1) + "\n")


@dataclass(frozen=True)
class Study:
    """A declaration, with the directory of its runs and overrides of the command line for all of them."""

    name: str
    question: str
    setup: str
    seeds: list[int]
    recipes: dict[str, dict]
    variants: dict[str, dict]
    reference: str
    columns: dict[str, dict]
    figure: list[list[dict]]
    directory: Path = Path()
    overrides: tuple[str, ...] = ()

    def variant(self, name: str) -> dict:
        """Keys of a variant, in addition to those of its recipe."""
        own, lists = self.variants[name], ("set", "evaluate", "evaluate_parent")
        recipe = self.recipes[own["recipe"]]
        joined = {key: [*recipe.get(key, ()), *own.get(key, ())] for key in lists}
        return {"reference": self.reference, **recipe, **own, **joined}

    def parent(self, name: str, seed: int) -> Run | None:
        parent = self.variant(name).get("parent")
        return self.runs(parent, seed)[-1] if parent else None

    def runs(self, name: str, seed: int) -> list[Run]:
        """Run for each number of steps of a variant."""
        variant = self.variant(name)
        changes = [fill_in(override, variant) for override in variant["set"]]
        return [
            Run(
                directory=self.directory / re.sub(r"[^\w.]+", "-", f"{name}-{steps}-seed-{seed}"),
                overrides=(*changes, f"num_steps={steps}", f"seed={seed}", *self.overrides),
                steps=steps,
                seconds=variant["start_seconds"] + steps * variant["step_seconds"],
                parent=self.parent(name, seed),
            )
            for steps in variant["steps"]
        ]

    def all_runs(self) -> list[Run]:
        return [run for seed in self.seeds for name in self.variants for run in self.runs(name, seed)]

    @property
    def cost(self) -> str:
        minutes = math.ceil(sum(run.seconds for run in self.all_runs()) / 60)
        return f"{format_count(len(self.all_runs()), 'run')}, about {format_count(minutes, 'minute')}"


def study_names() -> list[str]:
    return sorted(path.stem for path in DECLARATIONS.glob("*.yaml"))


def read_study(name: str, seeds: list[int] | None = None) -> Study:
    """Study of a declaration; ConfigError if there is none."""
    if name not in study_names():
        hint = did_you_mean(name, study_names())
        raise ConfigError(f"no study {name!r}; choose from {', '.join(study_names())}{hint}")
    values = yaml.safe_load((DECLARATIONS / f"{name}.yaml").read_text(encoding="utf-8"))
    return Study(name=name, **{**values, "seeds": list(dict.fromkeys(seeds or values["seeds"]))})


def fill_in(text: object, variant: dict) -> str:
    """Text with the variant's values in place of `$key`."""
    return Template(str(text)).substitute(variant)


def run_study(study: Study) -> Values:
    """Trains and measures what is missing, seed by seed, and returns the table."""
    table = {name: [] for name in study.variants}
    for seed in study.seeds:
        for name, rows in table.items():
            results, variant = measure(study, name, seed), study.variant(name)
            rows.append([select(results, column, variant) for column in study.columns.values()])
    return {name: np.transpose(rows) for name, rows in table.items()}


def measure(study: Study, name: str, seed: int) -> list[dict]:
    """Rows of the results of a variant: summary, metrics and scripts; `steps` is 0 in those of its parent."""
    variant, parent, rows = study.variant(name), study.parent(name, seed), []
    for run in study.runs(name, seed):
        train(run)
        summary = json.loads((run.directory / "summary.json").read_text(encoding="utf-8"))
        sources = {"summary": [summary], "metrics": read_json_lines(run.directory / "metrics.jsonl")}
        sources["script"] = evaluate(run, variant["evaluate"], variant)
        rows += [row | {"from": source, "steps": run.steps} for source in sources for row in sources[source]]
    if parent and variant["evaluate_parent"]:
        train(parent)
        results = evaluate(parent, variant["evaluate_parent"], variant)
        rows += [row | {"from": "script", "steps": 0} for row in results]
    return rows


def train(run: Run) -> str:
    """Trains a run and its parents, unless they are complete, and returns the digest of the run.

    A run of an earlier declaration is deleted. Raises RunError for a directory that no study has written.
    """
    parents = [train(run.parent)] if run.parent else []
    digest = hashlib.sha256(json.dumps([composed(run.overrides), *parents]).encode()).hexdigest()
    record = run.read_record()
    if record.get("digest") != digest:
        if record:
            print_line(f"{run.directory}: its declaration has changed")
            delete(run.directory)
        elif run.directory.exists():
            raise RunError(f"{run.directory} is a run of another config: move it, or set --output-dir")
        run.write_record({"overrides": run.overrides, "digest": digest, "results": {}})
    if not has_complete_summary(run.directory):
        places = [f"output_dir='{run.directory.parent}'", f"name='{run.directory.name}'"]
        places += [f"init_from='{run.parent.directory}'"] if run.parent else []
        execute(ROOT / "train.py", *run.overrides, *places)
    return digest


def evaluate(run: Run, lines: list[str], variant: dict) -> list[dict]:
    """Rows that scripts print for a run; each line, such as `evaluate --windows 256`, is run once."""
    record, lines = run.read_record(), [fill_in(line, variant) for line in lines]
    for line in lines:
        if line not in record["results"]:
            script, *arguments = line.split()
            with tempfile.TemporaryFile("w+") as output:
                program = ROOT / "scripts" / f"{script}.py"
                execute(program, run.directory, *arguments, "--json", file=output)
                output.seek(0)
                record["results"][line] = json.load(output)
            run.write_record(record)
    return [row for line in lines for row in record["results"][line]]


def execute(program: Path, *arguments: object, **options) -> None:
    """Runs a program; if it fails, its own message has been printed, and its exit code ends the study."""
    if code := run_job([sys.executable, str(program), *map(str, arguments)], **options):
        print_note("the study has stopped; the same command resumes it.")
        sys.exit(code)


def select(rows: list[dict], column: dict, variant: dict) -> float:
    """Value of a column in the row that its filters select, or NaN.

    A filter is the value of a key, or `<= number`, which selects the first such row. `take: mean` is the mean
    over several rows. A filter `$key` selects nothing for a variant without this key.
    """
    filters = {key: Template(str(value)).safe_substitute(variant) for key, value in column.items()}
    filters = {"from": "script"} | filters
    value, take, _ = (filters.pop(key, None) for key in ("value", "take", "format"))
    chosen = (row for row in rows if value in row and all(is_in(row, *each) for each in filters.items()))
    found = [row[value] for row in chosen]
    if len(found) > 1 and take is None and not any(limit.startswith("<=") for limit in filters.values()):
        raise ConfigError(f"the column {column} has {len(found)} values: add filters")
    if not found:
        return math.nan
    return float(np.mean(found)) if take == "mean" else float(found[0])


def is_in(row: dict, key: str, limit: str) -> bool:
    if limit.startswith("<="):
        return key in row and row[key] <= float(limit.removeprefix("<="))
    return str(row.get(key)) == limit
