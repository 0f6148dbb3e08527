"""Classifies image files with a vision transformer: `python -m scripts.predict outputs/vit IMAGE...`.

An image is resized to fill the size of the training; where it has another shape, its middle is cut out.
"""

import argparse
import json
import sys
from pathlib import Path

from runs.devices import import_tensorflow
from system.command import USER_ERROR, run_command


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    import_tensorflow()
    predictions, failures = classify(options.run_directory, options.images, top=options.top)
    if options.json:
        print(json.dumps(predictions, indent=1))
    else:
        for prediction in predictions:
            guesses = [f"{guess['class']} {guess['probability']:.1%}" for guess in prediction["guesses"]]
            print(f"{prediction['image']}: {', '.join(guesses)}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return USER_ERROR if failures else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.predict", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="of a trained vision transformer: outputs/vit")
    parser.add_argument("images", type=Path, nargs="+", metavar="image", help="file, in any common format")
    parser.add_argument("--top", type=int, default=3, help="classes to name (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error(f"--top must be at least 1, got {options.top}")
    return options


def classify(run_directory: Path, paths: list[Path], *, top: int) -> tuple[list[dict], list[str]]:
    """What each file most likely shows, resized to fill the size of the training; and which are no images."""
    import numpy as np
    import tensorflow as tf

    from data.image_batches import normalize
    from data.image_files import read_image
    from models.config import AxialViTConfig
    from runs.load import load_model
    from system.errors import DataError

    model, config, manifest = load_model(run_directory, of=AxialViTConfig)
    mean, deviation = (np.array(manifest[key], np.float32) for key in ("mean", "deviation"))
    predictions, failures = [], []
    for path in paths:
        try:
            image = read_image(path, image_size=config.model.image_size, channels=config.model.channels)
        except DataError as error:
            failures.append(str(error))
            continue
        (probabilities,) = tf.nn.softmax(
            model(normalize(image[np.newaxis], mean=mean, deviation=deviation))
        ).numpy()
        order = np.argsort(-probabilities, kind="stable")[:top]
        guesses = [{"class": manifest["classes"][i], "probability": float(probabilities[i])} for i in order]
        predictions.append({"image": str(path), "guesses": guesses})
    return predictions, failures


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
