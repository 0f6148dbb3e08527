"""Classifies images with a vision transformer: `python -m scripts.predict outputs/vit IMAGE_OR_DIRECTORY...`.

Images are resized to the training size, and those of another shape are cropped to their center.
"""

import argparse
import csv
import json
import sys
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/predict.py`

from runs.arguments import add_step_option, positive_integer, writing
from system.command import USER_ERROR, quiet_imports, run_command
from system.files import replacing
from system.text import format_percent, print_error, print_result


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with quiet_imports():
        from runs.evaluate_runs import classify_files

    predictions, failures = classify_files(
        options.run_directory, options.images, top=options.top, step=options.step
    )
    if options.csv:
        with writing(options.csv) as path:
            write_csv(predictions, path)
    elif options.json:
        print_result(json.dumps(predictions, indent=1))
    else:
        for row in predictions:
            guesses = [f"{each['class']} {format_percent(each['probability'])}" for each in row["guesses"]]
            print_result(f"{row['image']}: {', '.join(guesses)}")
    for failure in failures:
        print_error(f"error: {failure}")
    return USER_ERROR if failures else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.predict", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="run of a vision transformer, such as outputs/vit")
    image = "image file (AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP), or a directory of these"
    parser.add_argument("images", type=Path, nargs="+", metavar="image", help=image)
    top = "number of classes to print (default %(default)s)"
    parser.add_argument("--top", type=positive_integer, default=3, help=top)
    add_step_option(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON instead of lines")
    table = "write a CSV file instead: image, class_1, probability_1, class_2, ..."
    output.add_argument("--csv", type=Path, metavar="PATH", help=table)
    return parser.parse_args(arguments)


def write_csv(predictions: list[dict], path: Path) -> None:
    """Writes a header and one row for each image."""
    rows = [[each["image"], *chain(*map(dict.values, each["guesses"]))] for each in predictions]
    ranks = range(1, 1 + max(map(len, rows), default=0) // 2)
    header = ["image", *(f"{name}_{rank}" for rank in ranks for name in ("class", "probability"))]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
