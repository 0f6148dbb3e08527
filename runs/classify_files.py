"""Classification of image files by a trained vision transformer."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from data.image_batches import normalize
from data.image_files import read_image
from models.config import AxialViTConfig
from runs.load import load_model
from system.errors import DataError


def classify_files(run_directory: Path, paths: list[Path], *, top: int) -> tuple[list[dict], list[str]]:
    """The `top` most probable classes of each image file, and one message for each unreadable file.

    Images are resized to the training size, and those of another shape are cropped to their centre.
    """
    model, config, manifest = load_model(run_directory, of=AxialViTConfig)
    mean, deviation = (np.array(manifest[key], np.float32) for key in ("mean", "deviation"))  # (channels,)
    predictions, failures = [], []
    for path in paths:
        try:
            image = read_image(path, image_size=config.model.image_size, channels=config.model.channels)
        except DataError as error:
            failures.append(str(error))
            continue
        inputs = normalize(image[np.newaxis], mean=mean, deviation=deviation)  # (1, height, width, channels)
        (probabilities,) = tf.nn.softmax(model(inputs)).numpy()  # (classes,)
        order = np.argsort(-probabilities, kind="stable")[:top]
        guesses = [{"class": manifest["classes"][i], "probability": float(probabilities[i])} for i in order]
        predictions.append({"image": str(path), "guesses": guesses})
    return predictions, failures
