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
from scripts.context_plan import STRIDE, Part, Study, made_from, parts_of, records, seconds_left
from scripts.context_report import Report, check_page, read_results, write_report
from scripts.failures import USER_MISTAKE, exit_code_of
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
    parser.add_argument(
        "--targets",
        type=tokens,
        metavar="N",
        default=Study.targets,
        help="about how many bytes an evaluation predicts (default %(default)s)",
    )
    parser.add_argument("--output-dir", type=Path, default=Study.output_dir, help="(default %(default)s)")
    parser.add_argument("--docs-dir", type=Path, default=Path("docs"), help="(default %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every training, after --")
    options = parser.parse_args(arguments)
    if options.targets < STRIDE:
        parser.error(f"--targets must be at least {STRIDE}, got {options.targets}")
    options.seeds = list(dict.fromkeys(options.seeds))
    return options


def run_parts(study: Study, parts: list[Part]) -> int:
    """Runs what is not done, until a part fails; its exit code."""
    left = parts_left(study, parts)
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
                f"error: {part.name} ended with exit code {exit_code}; {advice(part, exit_code)}",
                file=sys.stderr,
            )
            return exit_code
        write_record(study, part, seconds=max(time.monotonic() - start, seconds_of_training(part)))
    return 0


def parts_left(study: Study, parts: list[Part]) -> list[Part]:
    """What is not done, and what was made from a run that is to be trained again, whose records go.

    Raises:
        RunError: naming the runs that started from one that is to be trained again.
    """
    stale = []
    for part in parts:
        if part.is_evaluation or part.result.exists():
            continue
        made = made_from(part.result.parent, parts)
        runs = [str(other.result.parent) for other in made if is_begun(other)]
        if runs:
            raise RunError(
                f"{part.result.parent} is to be trained again, but other runs started from the old one. "
                f"Delete {', '.join(runs)}"
            )
        stale += made
    for part in stale:
        record_path(study, part).unlink(missing_ok=True)
    return [part for part in parts if record_of(study, part) is None]


def is_begun(part: Part) -> bool:
    """Whether it is a training that goes on from what is in its directory, and no more from its parent."""
    return not part.is_evaluation and part.result.parent.exists()


def advice(part: Part, exit_code: int) -> str:
    """What to do about a part that failed."""
    if exit_code == USER_MISTAKE and is_begun(part):
        return (
            f"if {part.result.parent} is a run of another config, use another --output-dir or delete it; "
            "else the same command goes on from there"
        )
    return "the same command goes on from there"


def seconds_of_training(part: Part) -> float:
    """Those before an interruption too; 0 for an evaluation, which begins anew."""
    return 0.0 if part.is_evaluation else json.loads(part.result.read_text())["elapsed_seconds"]


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
