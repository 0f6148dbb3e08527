"""Text and image datasets of TensorFlow Datasets, downloaded unless `data_dir` has them."""

import contextlib
import io
import itertools
import logging
from collections.abc import Iterator

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from data.config import TfdsImagesConfig, TfdsTextConfig
from data.sources import Report, Source, Split
from system.errors import DataError, reason
from system.text import can_redraw_lines, did_you_mean

CATALOG = "https://www.tensorflow.org/datasets/catalog"
# Kind of the feature that an option names, and whether a feature is one.
KEYS = {
    "text_key": ("a text", lambda feature: feature.tf_dtype == tf.string and feature.shape == ()),
    "image_key": ("a uint8 image", lambda feature: feature.tf_dtype == tf.uint8 and len(feature.shape) == 3),
    "label_key": ("a class label", lambda feature: isinstance(feature, tfds.features.ClassLabel)),
}


def tfds_source(config: TfdsTextConfig | TfdsImagesConfig, *, report: Report) -> Source:
    """Texts, or images and labels, of a dataset, named by split and index; DataError if it cannot be used."""
    is_text = isinstance(config, TfdsTextConfig)
    builder = _find_builder(config.tfds_name, data_dir=config.data_dir)
    options = ("text_key",) if is_text else ("image_key", "label_key")
    keys = {option: getattr(config, option) for option in options}
    _check_keys(builder, keys)
    _prepare(builder, report=report)
    splits = {"train": config.train_split, "validation": config.validation_split}
    counts = [_count_examples(builder, *split) for split in splits.items() if split[1] is not None]
    if not is_text:  # of texts, those that repeat are left out
        _check_disjoint(builder, **splits)

    def items(split: Split) -> Iterator[tuple]:
        with _quiet():
            dataset = builder.as_dataset(
                split=splits[split],
                shuffle_files=False,
                decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys.values(), True)),
                # One file after the other: the order does not depend on the number of processors.
                read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            )
        for index, example in enumerate(dataset.as_numpy_iterator()):
            yield f"{splits[split]}/{index}", *(example[key] for key in keys.values())

    info = builder.info
    return Source(
        name=f"{config.source} {info.full_name}",
        identity={
            "set": info.full_name,
            "folder": str(builder.data_dir),
            "bytes": int(info.dataset_size),
            "splits": [*splits.values(), *counts],
            "keys": keys,
        },
        num_items=sum(counts),
        unit="example",
        items=items,
        held_out=config.held_out if config.validation_split is None else None,
        classes=() if is_text else tuple(info.features[config.label_key].names),
    )


def _find_builder(name: str, *, data_dir: str | None):
    try:
        with _quiet():
            return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        dataset = name.split("/")[0].split(":")[0]
        hint = did_you_mean(dataset, tfds.list_builders(with_community_datasets=False)) or f"; see {CATALOG}"
        raise DataError(f"data.tfds_name={name}: there is no set {dataset!r}{hint}") from None
    # A wrong version is an AssertionError, a wrong config or spelling a ValueError.
    except (AssertionError, ValueError, ImportError) as error:
        raise DataError(f"data.tfds_name={name} cannot be loaded: {_reason(error)}; see {CATALOG}") from error


def _prepare(builder, *, report: Report) -> None:
    if builder.is_prepared():
        return
    report(f"downloading {builder.info.full_name} into {builder.data_dir}")
    downloader.MAX_RETRIES = 3  # its default of 10 takes minutes without a network
    try:
        with _quiet():
            builder.download_and_prepare()
    # TFDS raises AssertionError, OSError, ValueError, ImportError and others, with no common class.
    except Exception as error:
        raise DataError(
            f"{builder.info.full_name} could not be downloaded and prepared in {builder.data_dir}: "
            f"{_reason(error)}. Check the network or copy a prepared set and set data.data_dir=FOLDER"
        ) from error


def _count_examples(builder, split: Split, name: str) -> int:
    """Number of examples in the split `name` of the dataset; raises DataError if it is unknown or empty."""
    with contextlib.suppress(KeyError, ValueError):
        if count := builder.info.splits[name].num_examples:
            return count
    raise DataError(
        f"data.{split}_split={name} is not a split of {builder.info.full_name} with examples; choose one "
        f"of {', '.join(builder.info.splits)}, or a part such as 'train[:90%]'"
    )


def _check_disjoint(builder, *, train: str, validation: str) -> None:
    parts = (builder.info.splits[split].file_instructions for split in (train, validation))
    for a, b in itertools.product(*parts):
        if a.filename == b.filename and max(a.skip, b.skip) < min(a.skip + a.take, b.skip + b.take):
            raise DataError(
                f"data.train_split={train} and data.validation_split={validation} share examples of "
                f"{builder.info.full_name}; choose disjoint splits such as train[:90%] and train[90%:]"
            )


def _check_keys(builder, keys: dict[str, str]) -> None:
    for option, key in keys.items():
        kind, is_valid = KEYS[option]
        valid = sorted(name for name, feature in builder.info.features.items() if is_valid(feature))
        if key not in valid:
            advice = f"choose one of {', '.join(valid)}" if valid else "it has none; choose another set"
            raise DataError(f"data.{option}={key} is not {kind} of {builder.info.full_name}; {advice}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's prints and warnings, and its progress bars unless standard error is a terminal."""
    tfds.display_progress_bar(can_redraw_lines())
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
