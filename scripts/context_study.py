"""Makes the comparison of docs/context_extension.md again, from nothing: `python -m scripts.context_study`.

The same command again goes on where it was stopped. Further overrides of train.py follow a `--`:
`python -m scripts.context_study --seeds 0 -- data=text_files data.path='texts/*.txt'`.
"""

import argparse
import json
import os
import sys
import time
from datetime import date
from pathlib import Path

from configs.sweep import run_job
from scripts.context_options import tokens
from scripts.context_plan import STRIDE, Part, Study, parts_of, records, seconds_left
from scripts.context_report import Report, check_page, read_results, write_report
from scripts.failures import exit_code_of
from scripts.machine import machine
from training.errors import RunError, reason


def main(arguments: list[str]) -> int:
    options = vars(parse(arguments))
    docs_dir = options.pop("docs_dir")
    study = Study(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    )
    try:
        return make(study, docs_dir)
    except OSError as error:
        raise RunError(f"cannot write {error.filename} ({reason(error)})") from error


def make(study: Study, docs_dir: Path) -> int:
    """Runs what is left of the study and writes its report; the exit code."""
    check_page(docs_dir)
    parts = parts_of(study)
    records(study).mkdir(parents=True, exist_ok=True)
    if exit_code := run_parts(study, parts):
        return exit_code
    for path in write_report(report_of(study, parts), docs_dir):
        print(f"wrote {path}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.context_study", description=__doc__)
    recipe = "(default: that of the recipe)"
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    parser.add_argument("--num-steps", type=tokens, metavar="N", help=f"of each base {recipe}")
    parser.add_argument("--extend-steps", type=tokens, metavar="N", help=f"of each fine-tuned run {recipe}")
    parser.add_argument("--targets", type=tokens, metavar="N", help="bytes that an evaluation predicts")
    parser.add_argument("--output-dir", type=Path, default=Study.output_dir, help="(default %(default)s)")
    parser.add_argument("--docs-dir", type=Path, default=Path("docs"), help="(default %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every training, after --")
    options = parser.parse_args(arguments)
    if options.targets is not None and options.targets < STRIDE:
        parser.error(f"--targets must be at least {STRIDE}, got {options.targets}")
    options.seeds = list(dict.fromkeys(options.seeds))
    return options


def run_parts(study: Study, parts: list[Part]) -> int:
    """Runs what is not done, until a part fails; its exit code."""
    left = [part for part in parts if record_of(study, part) is None]
    while left:
        done = [(part, record_of(study, part)["seconds"]) for part in parts if part not in left]
        minutes = seconds_left(left, done) / 60
        print(
            f"[{len(done) + 1}/{len(parts)}] {left[0].name}; about {minutes:.0f} minutes left in all",
            flush=True,
        )
        part = left.pop(0)
        start = time.monotonic()
        if exit_code := run_job([sys.executable, *part.command]):
            print(
                f"error: {part.name} ended with exit code {exit_code}; the same command goes on from there",
                file=sys.stderr,
            )
            return exit_code
        write_record(study, part, seconds=time.monotonic() - start)
    return 0


def record_path(study: Study, part: Part) -> Path:
    return records(study) / f"{part.name.replace(' ', '-')}.json"


def record_of(study: Study, part: Part) -> dict | None:
    """What was noted when this very command succeeded; None if it did not, or its result is gone."""
    try:
        record = json.loads(record_path(study, part).read_text())
    except (OSError, ValueError):
        return None
    return record if record["command"] == list(part.command) and part.result.exists() else None


def write_record(study: Study, part: Part, *, seconds: float) -> None:
    record = {
        "command": part.command,
        "seconds": seconds,
        "date": date.today().isoformat(),
        "machine": machine(),
    }
    path = record_path(study, part)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(aside, path)


def report_of(study: Study, parts: list[Part]) -> Report:
    found = [record_of(study, part) for part in parts]
    latest = max(found, key=lambda record: record["date"])
    return Report(
        rows=read_results([part for part in parts if part.is_evaluation]),
        seconds=sum(record["seconds"] for record in found),
        date=latest["date"],
        machine=latest["machine"],
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
