"""Image classification: images as the data of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from configs.schema import Config
from data.batches import ALL_ROWS, EvaluationBatches
from data.image_batches import image_training_dataset, normalize
from data.images import ImageSet, load_images
from data.sources import Report
from runs.plots import Prediction, plot_confusion, plot_predictions
from system.errors import DataError
from system.text import format_share
from training.evaluation import summed_loss_and_accuracy
from training.run_log import RunDirectory

NUM_EXAMPLES, NUM_MISTAKES = 12, 18


class ImageTask:
    """Images of a vision transformer; see `runs.load.Task`."""

    unit, next_script = "images", "scripts.evaluate"
    tokenizer = None
    measure = staticmethod(summed_loss_and_accuracy)

    def __init__(self, config: Config, images: ImageSet):
        self.config, self.images = config, images
        self.description, self.epoch_size = images.description, len(images.train.labels)
        self.facts = {
            "data_fingerprint": images.fingerprint,
            "classes": list(images.classes),
            "mean": images.mean.tolist(),
            "deviation": images.deviation.tolist(),
        }
        # Indices of some held-out images, evenly spaced.
        self.examples = np.unique(np.arange(NUM_EXAMPLES) * len(images.validation.labels) // NUM_EXAMPLES)

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        config = self.config
        return image_training_dataset(
            self.images,
            start_step=start_step,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.data.augment,
            rows=rows,
        )

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        split = self.images.validation
        return EvaluationBatches(
            len(split.labels),
            lambda items: (self.normalize(split.images[items]), split.labels[items]),
            batch_size=self.config.batch_size,
            max_batches=max_batches,
            rows=rows,
        )

    def sampler(self, directory: RunDirectory, model: keras.Model) -> Callable[[], dict]:
        """Function that draws a few held-out images with their predicted classes."""

        def sample() -> dict:
            images = self.images.validation.images[self.examples]
            probabilities = tf.nn.softmax(model(self.normalize(images))).numpy()
            predictions = self.predictions(self.examples, probabilities)
            with directory.optional(directory.predictions):
                plot_predictions(directory.predictions, {"held-out images": predictions})
            return {"predictions": directory.predictions}

        return sample

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        return means

    def results(self, means: dict[str, float]) -> dict:
        height, width = self.images.validation.images.shape[1:3]
        return {
            "image_size": f"{height}x{width}",
            "images": len(self.images.validation.labels),
            "nats_per_image": means["validation_loss"],
            **{key: means[key] for key in ("accuracy", "top_5_accuracy") if key in means},
        }

    def verdict(self, row: dict) -> str:
        count = len(self.images.validation.labels)
        correct = format_share(round(row["accuracy"] * count), count)
        return f"{correct} held-out images correct, loss {row['validation_loss']:.4f} nats per image"

    def finish(self, directory: RunDirectory, model: keras.Model) -> tuple[dict, list[Path]]:
        """Draws the confusion matrix, some predictions and the most confident mistakes."""
        probabilities = self.probabilities(model)
        labels, names = self.images.validation.labels, self.images.validation.names
        predicted = probabilities.argmax(axis=1)
        confusion = tf.math.confusion_matrix(labels, predicted, len(self.images.classes)).numpy()
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:NUM_MISTAKES]
        examples = self.predictions(self.examples, probabilities[self.examples])
        mistakes = self.predictions(worst, probabilities[worst])
        with directory.optional(directory.confusion):
            plot_confusion(directory.confusion, confusion, self.images.classes)
        with directory.optional(directory.predictions):
            hidden = [mistakes[i] for i in np.flatnonzero(~np.isin(worst, self.examples))]
            groups = {"held-out images": examples, "mistakes, most confident first": hidden}
            plot_predictions(directory.predictions, groups)
        summary = {
            "classes": list(self.images.classes),
            "confusion_matrix": confusion.tolist(),
            "mistakes": [
                ({} if names is None else {"name": names[index]})
                | {"index": int(index), "class": label, "predicted": predicted, "probability": float(share)}
                for index, (_, label, predicted, share) in zip(worst, mistakes, strict=True)
            ],
        }
        return summary, [directory.predictions, directory.confusion]

    def normalize(self, images: np.ndarray) -> np.ndarray:
        return normalize(images, mean=self.images.mean, deviation=self.images.deviation)

    def probabilities(self, model: keras.Model) -> np.ndarray:
        """(held-out images, classes) float32."""

        @tf.function(autograph=False, jit_compile=self.config.compile == "xla")
        def predict(images):
            return tf.nn.softmax(model(images))

        batches = [predict(images).numpy() for images, _ in self.evaluation_batches()]
        return np.concatenate(batches)[: len(self.images.validation.labels)]

    def predictions(self, indices: np.ndarray, probabilities: np.ndarray) -> list[Prediction]:
        split, classes = self.images.validation, self.images.classes
        return [
            Prediction(split.images[index], classes[split.labels[index]], classes[row.argmax()], row.max())
            for index, row in zip(indices, probabilities, strict=True)
        ]


def load_image_task(config: Config, *, report: Report, facts: dict | None = None) -> ImageTask:
    """Loads the images of a config and fills in what they determine; `facts` are those of a trained model.

    Raises DataError if there are no such images, they do not fit the model, or it was trained on others.
    """
    images = load_images(config.data, report=report)
    if facts is not None and list(images.classes) != facts["classes"]:
        old, new = ", ".join(facts["classes"]), ", ".join(images.classes)
        raise DataError(f"the model was trained on the classes {old}, the data of its run now have {new}")
    try:
        model = config.model.for_images(*images.train.images.shape[1:], num_classes=len(images.classes))
    except ValueError as error:
        raise DataError(f"the images of {config.data.source} do not fit the model: {error}") from error
    if facts is not None:
        images = replace(images, **{key: np.array(facts[key], np.float32) for key in ("mean", "deviation")})
    return ImageTask(replace(config, model=model), images)
