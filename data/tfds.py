"""Text and image datasets of TensorFlow Datasets, downloaded unless `data_dir` has them.

`tensorflow_datasets` is imported in functions: its import is slow, and few runs need it.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import tensorflow as tf

from data.config import TfdsImagesConfig, TfdsTextConfig
from data.sources import Documents, Example, ImageSource, Source, Split
from system.errors import DataError, reason
from system.text import did_you_mean

CATALOG = "https://www.tensorflow.org/datasets/catalog"
# TFDS retries a connection 10 times, which takes minutes without a network.
MAX_RETRIES = 3


def tfds_source(config: TfdsTextConfig, *, report: Callable[[str], None]) -> Source:
    """Text dataset `config.tfds_name`, one document for each example.

    The name of a document is its split and its index in the stored order.

    Raises:
        DataError: if the set, its text key or a split is unknown, or the download fails.
    """
    builder = find_builder(config.tfds_name, data_dir=config.data_dir)
    _check_key(builder, "text_key", config.text_key)
    prepare(builder, report=report)
    train, validation = config.train_split, config.validation_split
    counts = [count_examples(builder, train, option="data.train_split")]
    if validation is not None:
        counts.append(count_examples(builder, validation, option="data.validation_split"))

    def documents(split: str) -> Documents:
        for index, example in enumerate(read_examples(builder, split, keys=(config.text_key,))):
            yield f"{split}/{index}", example[config.text_key]

    return Source(
        name=f"{config.source} {builder.info.full_name}",
        identity=_identity(builder) | {"splits": [train, validation, counts], "text_key": config.text_key},
        num_items=sum(counts),
        unit="example",
        documents=lambda: documents(train),
        validation_documents=None if validation is None else lambda: documents(validation),
    )


def tfds_images_source(config: TfdsImagesConfig, *, report: Callable[[str], None]) -> ImageSource:
    """Image classification dataset `config.tfds_name`.

    Raises:
        DataError: if the set, a key or a split is unknown, the splits overlap, an example has no label, or
            the download fails.
    """
    builder = find_builder(config.tfds_name, data_dir=config.data_dir)
    _check_key(builder, "image_key", config.image_key)
    _check_key(builder, "label_key", config.label_key)
    prepare(builder, report=report)
    classes = tuple(builder.info.features[config.label_key].names)
    splits: dict[Split, str] = {"train": config.train_split, "validation": config.validation_split}
    counts = {
        split: count_examples(builder, name, option=f"data.{split}_split") for split, name in splits.items()
    }
    check_disjoint(builder, config.train_split, config.validation_split)
    keys = config.image_key, config.label_key

    def examples(split: Split, skip: Callable[[str], None]) -> Iterator[Example]:
        for index, example in enumerate(read_examples(builder, splits[split], keys=keys)):
            image, label = (example[key] for key in keys)
            if not 0 <= label < len(classes):
                raise DataError(
                    f"data.{split}_split={splits[split]} of {builder.info.full_name} has the label {label} "
                    f"at example {index:,}, outside 0..{len(classes) - 1}; choose a split with labels"
                )
            yield Example(None, image, int(label))

    return ImageSource(
        name=f"{config.source} {builder.info.full_name}",
        identity=_identity(builder) | {"splits": [*splits.values(), *counts.values()], "keys": list(keys)},
        num_items=sum(counts.values()),
        classes=classes,
        examples=examples,
        every_class=False,
    )


def find_builder(name: str, *, data_dir: str | None):
    """Builder of `name`, which is `dataset[/config][:version]`; raises DataError if there is none."""
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            return tfds.builder(name, data_dir=data_dir and str(Path(data_dir).expanduser()))
    except tfds.core.DatasetNotFoundError:
        dataset = name.split("/")[0].split(":")[0]
        suggestion = did_you_mean(dataset, tfds.list_builders(with_community_datasets=False))
        raise DataError(
            f"data.tfds_name={name}: there is no set {dataset!r}{suggestion or f'; see {CATALOG}'}"
        ) from None
    # A wrong version is an AssertionError, a wrong config or spelling a ValueError.
    except (AssertionError, ValueError, ImportError) as error:
        raise DataError(f"data.tfds_name={name} cannot be loaded: {_reason(error)}; see {CATALOG}") from error


def prepare(builder, *, report: Callable[[str], None]) -> None:
    """Downloads and prepares the dataset of `builder` unless its `data_dir` has it.

    Raises:
        DataError: if that fails, such as without a network.
    """
    from tensorflow_datasets.core.download import downloader

    with _quiet():
        if builder.is_prepared():
            return
    report(f"downloading {builder.info.full_name} into {builder.data_dir}")
    downloader.MAX_RETRIES = MAX_RETRIES
    try:
        with _quiet():
            builder.download_and_prepare()
    # TFDS raises AssertionError, OSError, ValueError, ImportError and others, with no common class.
    except Exception as error:
        raise DataError(
            f"{builder.info.full_name} could not be downloaded and prepared in {builder.data_dir}: "
            f"{_reason(error)}. Check the network and the folder, or prepare the set on another machine, "
            "copy it and set data.data_dir=... to its folder"
        ) from error


def count_examples(builder, split: str, *, option: str) -> int:
    """Number of examples in `split`, the value of `option`; raises DataError if it is unknown or empty."""
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        count = 0
    if not count:
        raise DataError(
            f"{option}={split} is not a split of {builder.info.full_name} with examples; choose one of "
            f"{', '.join(builder.info.splits)}, or a part such as 'train[:90%]'"
        )
    return count


def check_disjoint(builder, train: str, validation: str) -> None:
    """Raises DataError if the two splits, which must be known, have an example in common."""
    files = (builder.info.splits[split].file_instructions for split in (train, validation))
    for a, b in product(*files):
        if a.filename == b.filename and max(a.skip, b.skip) < min(a.skip + a.take, b.skip + b.take):
            raise DataError(
                f"data.train_split={train} and data.validation_split={validation} share examples of "
                f"{builder.info.full_name}; choose disjoint splits such as train[:90%] and train[90%:]"
            )


def read_examples(builder, split: str, *, keys: tuple[str, ...]) -> Iterator[dict]:
    """Examples of a prepared dataset in their stored order, each a dict of NumPy values with `keys`."""
    import tensorflow_datasets as tfds

    with _quiet():
        dataset = builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
            # One file after the other: the order does not depend on the number of processors.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
    yield from dataset.as_numpy_iterator()


def _identity(builder) -> dict:
    """JSON values that change whenever the prepared dataset may have changed."""
    info = builder.info
    return {"set": info.full_name, "folder": str(builder.data_dir), "bytes": int(info.dataset_size)}


def _check_key(builder, option: str, key: str) -> None:
    """Raises DataError unless the feature `key` has the type that `option` requires."""
    import tensorflow_datasets as tfds

    kind, is_valid = {
        "text_key": ("a text", lambda feature: feature.tf_dtype == tf.string and feature.shape == ()),
        "image_key": (
            "a uint8 image",
            lambda feature: feature.tf_dtype == tf.uint8 and len(feature.shape) == 3,
        ),
        "label_key": ("a class label", lambda feature: isinstance(feature, tfds.features.ClassLabel)),
    }[option]
    keys = sorted(name for name, feature in builder.info.features.items() if is_valid(feature))
    if key not in keys:
        advice = f"choose one of {', '.join(keys)}" if keys else "it has none; choose another data.tfds_name"
        raise DataError(f"data.{option}={key} is not {kind} of {builder.info.full_name}; {advice}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's prints and warnings, and its progress bars unless standard error is a terminal."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)


def _reason(error: BaseException) -> str:
    """First line of the message, without the keyword arguments that TFDS puts before it."""
    return reason(error).rpartition('}": ')[2][:300].rstrip(". :")
