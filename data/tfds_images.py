"""Image classification sets of TensorFlow Datasets as a source."""

from collections.abc import Callable, Iterator

from data.config import TfdsImagesConfig
from data.image_store import Example, ImageSource
from data.split import Split
from data.tfds_builder import check_apart, count_examples, find_builder, prepare, read_examples
from system.errors import DataError

READ_AT_ONCE = 64


def tfds_images_source(config: TfdsImagesConfig, *, report: Callable[[str], None]) -> ImageSource:
    """The images of `config.tfds_name`, downloaded where they are not yet in `config.data_dir`.

    Raises:
        DataError: if the set, a key or a split is unknown, the splits share examples, it has no labels or one
            class only, its images are not uint8, or the download fails.
    """
    builder = find_builder(config.tfds_name, data_dir=config.data_dir)
    _check_image_key(builder, config.image_key)
    _check_label_key(builder, config.label_key)
    prepare(builder, report=report)
    classes = _classes(builder, config.label_key)
    splits = {"train": config.train_split, "validation": config.validation_split}
    counts = {
        split: count_examples(builder, name, option=f"data.{split}_split") for split, name in splits.items()
    }
    check_apart(builder, config.train_split, config.validation_split)
    name = f"{config.source} {builder.info.full_name}"

    def examples(split: Split, skip: Callable[[str], None]) -> Iterator[Example]:
        keys = (config.image_key, config.label_key)
        for index, (image, label) in enumerate(_values(builder, splits[split], keys)):
            if not 0 <= label < len(classes):
                raise DataError(
                    f"data.{split}_split={splits[split]} of {builder.info.full_name} has the label {label} "
                    f"at example {index:,}, outside 0..{len(classes) - 1}; choose a split with labels"
                )
            yield Example(None, image, int(label))

    return ImageSource(
        name=name,
        identity={
            "set": builder.info.full_name,
            "folder": str(builder.data_dir),
            "splits": [*splits.values(), *counts.values()],
            "bytes": int(builder.info.dataset_size),
            "keys": [config.image_key, config.label_key],
        },
        classes=classes,
        counts=counts,
        examples=examples,
        every_class=False,
    )


def _values(builder, split: str, keys: tuple[str, str]) -> Iterator[tuple]:
    """Image and label of each example; many at a time where all images have one shape."""
    if None in builder.info.features[keys[0]].shape:
        for example in read_examples(builder, split, keys=keys):
            yield tuple(example[key] for key in keys)
    else:
        for batch in read_examples(builder, split, keys=keys, batch_size=READ_AT_ONCE):
            yield from zip(*(batch[key] for key in keys), strict=True)


def _check_image_key(builder, image_key: str) -> None:
    """Raises DataError unless `image_key` is a uint8 image."""
    import tensorflow_datasets as tfds

    images = _features(builder, tfds.features.Image)
    if image_key not in images:
        raise DataError(
            f"data.image_key={image_key} is not an image of {builder.info.full_name}; {_advice(images)}"
        )
    dtype = images[image_key].tf_dtype.name
    if dtype != "uint8":
        raise DataError(
            f"data.image_key={image_key} of {builder.info.full_name} holds {dtype} pixels, not uint8; "
            "choose another image_key or tfds_name"
        )


def _check_label_key(builder, label_key: str) -> None:
    """Raises DataError unless `label_key` is the class of an image."""
    import tensorflow_datasets as tfds

    labels = _features(builder, tfds.features.ClassLabel)
    if label_key not in labels:
        raise DataError(
            f"data.label_key={label_key} is not a class label of {builder.info.full_name}; {_advice(labels)}"
        )


def _classes(builder, label_key: str) -> tuple[str, ...]:
    """Names of the classes of a prepared set: some sets know them only then."""
    label = builder.info.features[label_key]
    names = tuple(label.names) if label.num_classes else ()
    if len(names) < 2:
        raise DataError(
            f"data.label_key={label_key} of {builder.info.full_name} has fewer than two classes; "
            "choose another label_key or tfds_name"
        )
    return names


def _features(builder, kind: type) -> dict:
    features = builder.info.features
    if not hasattr(features, "items"):
        return {}
    return {key: feature for key, feature in features.items() if isinstance(feature, kind)}


def _advice(features: dict) -> str:
    if features:
        return f"it has: {', '.join(sorted(features))}"
    return "it has none; choose another data.tfds_name"
