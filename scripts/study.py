"""Runs a study, or lists all: `python -m scripts.study positions`.

Trains and measures what is missing in outputs/studies/NAME and writes the page docs/studies/NAME.md. The same
command resumes a study.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/study.py`

from system.command import quiet_imports, run_command
from system.text import ROOT, format_count, format_entries, print_line, print_result

QUICK = ("num_steps=2", "eval_batches=1")


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    from configs.sweep import directory_name
    from runs.study import read_study, run_study, study_names

    if options.name is None:
        studies = map(read_study, study_names())
        print_result(format_entries((study.name, f"{study.cost}. {study.question}") for study in studies))
        return
    study = read_study(options.name, options.seeds)
    cost, parts, quick = f"{study.cost} on two cores", [study.name, *options.overrides], ()
    if options.quick:
        study, quick = replace(study, seeds=study.seeds[:1]), QUICK
        cost, parts = f"{format_count(len(study.all_runs()), 'run')} of 2 steps", [*parts, "quick"]
    # Runs with other keys do not replace those of the declaration, nor its page.
    directory = options.output_dir / directory_name("-".join(parts))
    study = replace(study, directory=directory, overrides=(*quick, *options.overrides))
    pages = None if options.quick else options.pages
    pages = pages or (directory if study.overrides else ROOT / "docs" / "studies")
    print_line(f"{study.question}\n{cost}")
    values = run_study(study)
    with quiet_imports():
        from runs.study_page import write_page
        from training.hardware import describe_machine
    write_page(study, values, pages, machine=describe_machine())


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.study", description=__doc__)
    add = parser.add_argument
    add("name", nargs="?", help="name of the study; without one, all are listed")
    add("overrides", nargs="*", help="keys for every run, as for train.py, such as precision=float32")
    add("--seeds", type=int, nargs="+", help="seeds (default those of the declaration)")
    add("--quick", action="store_true", help="one seed and two steps, to try the commands; no page in docs")
    directory = "folder of the runs (default outputs/studies)"
    add("--output-dir", type=Path, default=Path("outputs/studies"), metavar="FOLDER", help=directory)
    pages = "folder of the page (default docs/studies; with overrides or --quick that of the runs)"
    add("--pages", type=Path, metavar="FOLDER", help=pages)
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
