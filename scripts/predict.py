"""Classifies image files with a vision transformer: `python -m scripts.predict outputs/vit IMAGE...`.

Images are resized to the training size, and those of another shape are cropped to their centre.
"""

import argparse
import json
import sys
from pathlib import Path

from runs.arguments import add_step_option, positive_integer
from system.command import USER_ERROR, quiet_imports, run_command
from system.text import print_error, print_result


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with quiet_imports():
        from runs.evaluate_runs import classify_files

    predictions, failures = classify_files(
        options.run_directory, options.images, top=options.top, step=options.step
    )
    if options.json:
        print_result(json.dumps(predictions, indent=1))
    else:
        for prediction in predictions:
            guesses = [f"{guess['class']} {guess['probability']:.1%}" for guess in prediction["guesses"]]
            print_result(f"{prediction['image']}: {', '.join(guesses)}")
    for failure in failures:
        print_error(f"error: {failure}")
    return USER_ERROR if failures else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.predict", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="run of a vision transformer, such as outputs/vit")
    image = "image file: AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP"
    parser.add_argument("images", type=Path, nargs="+", metavar="image", help=image)
    top = "number of classes to print (default %(default)s)"
    parser.add_argument("--top", type=positive_integer, default=3, help=top)
    add_step_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
