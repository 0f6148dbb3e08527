"""Image classification as a task of the loop: images, what is measured, and what a run shows of itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from configs.schema import Config
from configs.values import plain
from data.batches import ALL_ROWS
from data.image_batches import image_evaluation_batches, image_training_dataset, normalize
from data.images import ImageSet, load_images
from models.config import AxialViTConfig
from runs.plots import Prediction, plot_confusion, plot_predictions
from system.errors import DataError
from training.losses import summed_loss_and_accuracy

NUM_EXAMPLES, NUM_MISTAKES = 16, 16


@dataclass(frozen=True)
class ImageTask:
    """A set of images under a config; `load_image_task` makes it.

    `mean` and `deviation` are those of each channel, (channels,), that images are normalised with.
    """

    config: Config
    images: ImageSet
    mean: np.ndarray
    deviation: np.ndarray

    unit = "images"
    data_word = "images"
    samples_at_end = False  # `finish` draws more
    measure = staticmethod(summed_loss_and_accuracy)

    @property
    def description(self) -> str:
        return self.images.description

    @property
    def facts(self) -> dict:
        """What a checkpoint records of the data."""
        return {
            "data_fingerprint": self.images.fingerprint,
            "classes": list(self.images.classes),
            "mean": self.mean.tolist(),
            "deviation": self.deviation.tolist(),
        }

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size

    def describe_model(self) -> list[str]:
        """What of the model tells runs apart, in words."""
        model = self.config.model
        height, width = model.image_size
        rows, columns = height // model.patch_size, width // model.patch_size
        return [
            f"images {height}x{width}x{model.channels} in {rows}x{columns} patches of "
            f"{model.patch_size}x{model.patch_size} pixels",
            f"position {model.position}",
            f"{model.attention} attention",
        ]

    def describe_batch(self) -> str:
        """What a step is trained on, in words."""
        return f"{self.config.batch_size} images"

    def training_batches(self, start_step: int, rows: slice = ALL_ROWS):
        """The batches that are left, or of each the rows that are wanted."""
        config = self.config
        return image_training_dataset(
            self.images.train,
            start_step=start_step,
            num_steps=config.num_steps,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=self.config.data.augment,
            mean=self.mean,
            deviation=self.deviation,
            rows=rows,
        )

    def evaluation_batches(self, max_batches: int | None = None, rows: slice = ALL_ROWS):
        """All held-out images, or an even choice of them."""
        return image_evaluation_batches(
            self.images.validation,
            batch_size=self.config.batch_size,
            max_batches=max_batches,
            mean=self.mean,
            deviation=self.deviation,
            rows=rows,
        )

    def sampler(self, directory, model: keras.Model) -> Callable[[], dict]:
        """A function that draws a few held-out images and what the model takes them for."""
        chosen = self._examples

        def sample() -> dict:
            images = self.images.validation.images[chosen]
            probabilities = tf.nn.softmax(
                model(normalize(images, mean=self.mean, deviation=self.deviation))
            ).numpy()
            examples = self._predictions(chosen, probabilities)
            with directory.optional(directory.predictions):
                plot_predictions(directory.predictions, {"held-out images": examples})
            return {}

        return sample

    def results(self, means: dict[str, float]) -> dict:
        """One row of a table of runs, from the means over all held-out images."""
        height, width = self.images.validation.images.shape[1:3]
        return {
            "image_size": f"{height}x{width}",
            "images": len(self.images.validation.labels),
            "loss": means["validation_loss"],
            **{key: means[key] for key in ("accuracy", "top_5_accuracy") if key in means},
        }

    def verdict(self, row: dict) -> str:
        """How good the model is, in words."""
        return f"accuracy {row['accuracy']:.2%} held out, loss {row['validation_loss']:.4f}"

    def finish(self, directory, model: keras.Model, row: dict) -> dict:
        """Draws what the model gets right and wrong; what the summary says beside the measures."""
        probabilities = self._probabilities(model)
        labels, predicted = self.images.validation.labels, probabilities.argmax(axis=1)
        confusion = np.zeros((len(self.images.classes),) * 2, np.int64)
        np.add.at(confusion, (labels, predicted), 1)
        with directory.optional(directory.confusion):
            plot_confusion(directory.confusion, confusion, self.images.classes)
        examples = self._examples
        wrong = np.flatnonzero(predicted != labels)
        worst = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:NUM_MISTAKES]
        mistakes = self._predictions(worst, probabilities[worst])
        with directory.optional(directory.predictions):
            plot_predictions(
                directory.predictions,
                {
                    "held-out images": self._predictions(examples, probabilities[examples]),
                    "most confident mistakes": mistakes,
                },
            )
        return {
            "classes": list(self.images.classes),
            "confusion_matrix": confusion.tolist(),
            "mistakes": [self._described(*mistake) for mistake in zip(worst, mistakes, strict=True)],
        }

    def show(self, directory, row: dict) -> tuple[list, str]:
        """The files that show what the model makes, and the command to try next."""
        model = self.config.model
        sizes = [tuple(side * factor // 2 for side in model.image_size) for factor in (2, 3, 4)]
        divided = [f"{h}x{w}" for h, w in sizes if h % model.patch_size == w % model.patch_size == 0]
        command = f"python -m scripts.evaluate {directory.path} --image-size {' '.join(divided)}"
        return [directory.predictions, directory.confusion], command

    @property
    def _examples(self) -> np.ndarray:
        """Indices of some held-out images, evenly spread."""
        return np.unique(np.arange(NUM_EXAMPLES) * len(self.images.validation.labels) // NUM_EXAMPLES)

    def _described(self, index: int, prediction: Prediction) -> dict:
        """A held-out image and what it was taken for, as JSON values."""
        names = self.images.validation.names
        return {
            **({} if names is None else {"file": names[index]}),
            "index": int(index),
            "class": prediction.label,
            "predicted": prediction.predicted,
            "probability": float(prediction.probability),
        }

    def _probabilities(self, model: keras.Model) -> np.ndarray:
        """(held-out images, classes) float32."""

        @tf.function(jit_compile=self.config.compile == "xla")
        def probabilities(images):
            return tf.nn.softmax(model(images))

        batches = [probabilities(images).numpy() for images, _ in self.evaluation_batches()]
        return np.concatenate(batches)[: len(self.images.validation.labels)]

    def _predictions(self, indices: np.ndarray, probabilities: np.ndarray) -> list[Prediction]:
        split, classes = self.images.validation, self.images.classes
        return [
            Prediction(split.images[index], classes[split.labels[index]], classes[row.argmax()], row.max())
            for index, row in zip(indices, probabilities, strict=True)
        ]


def load_image_task(
    config: Config,
    *,
    report: Callable[[str], None] = print,
    recorded: bool = False,
    facts: dict | None = None,
) -> ImageTask:
    """The images of a config; `facts` of a checkpoint tell their classes and how they are normalised.

    Raises:
        DataError: if there are no such images, they are not what the model takes, or no more those of the
            run that has `recorded` this config.
    """
    images = load_images(config.data, report=report)
    height, width, channels = images.train.images.shape[1:]
    if recorded:
        check_unchanged(config.model, images, facts)
    try:
        model = config.model.for_images(
            height=height, width=width, channels=channels, num_classes=len(images.classes)
        )
    except ValueError as error:
        raise DataError(f"the images of {config.data.source} do not suit the model: {error}") from error
    return ImageTask(replace(config, model=model), images, *normalisation(images, facts))


def check_unchanged(model: AxialViTConfig, images: ImageSet, facts: dict | None) -> None:
    """Raises DataError naming what of the images is not as in the run that has recorded the model."""
    height, width, channels = images.train.images.shape[1:]
    was = {key: getattr(model, key) for key in ("image_size", "channels", "num_classes")}
    now = {"image_size": (height, width), "channels": channels, "num_classes": len(images.classes)}
    if facts is not None:
        was |= {f"class {index}": name for index, name in enumerate(facts["classes"])}
        now |= {f"class {index}": name for index, name in enumerate(images.classes)}
    changes = [
        f"{key} was {plain(was[key])}, now it is {plain(now.get(key))}"
        for key in was
        if was[key] != now.get(key)
    ]
    if changes:
        raise DataError(
            f"the data have changed since the run began: {changes[0]}. "
            "Use name= for a run on the data of today."
        )


def normalisation(images: ImageSet, facts: dict | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel: those that a checkpoint records, or the images' own."""
    if facts is None:
        return images.mean, images.deviation
    return np.array(facts["mean"], np.float32), np.array(facts["deviation"], np.float32)
