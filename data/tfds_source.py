"""Text sets of TensorFlow Datasets as a source, one document an example."""

from collections.abc import Callable

from data.config import TfdsTextConfig
from data.sources import Documents, Source
from data.tfds_builder import count_examples, find_builder, prepare, read_examples
from system.errors import DataError


def tfds_source(config: TfdsTextConfig, *, report: Callable[[str], None]) -> Source:
    """The examples of `config.tfds_name`, downloaded where they are not yet in `config.data_dir`.

    A document is named after its split and index in the stored order. With `config.validation_split` null,
    documents of the training split are held out by their names.

    Raises:
        DataError: if the set, its text key or a split is unknown, or the download fails.
    """
    builder = find_builder(config.tfds_name, data_dir=config.data_dir)
    _check_text_key(builder, config.text_key)
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
        identity={
            "set": builder.info.full_name,
            "folder": str(builder.data_dir),
            "splits": [train, validation, counts],
            "bytes": int(builder.info.dataset_size),
            "text_key": config.text_key,
        },
        num_items=sum(counts),
        unit="example",
        documents=lambda: documents(train),
        validation_documents=None if validation is None else lambda: documents(validation),
    )


def _check_text_key(builder, text_key: str) -> None:
    """Raises DataError unless `text_key` is a feature that is one string."""
    features = builder.info.features
    keys = sorted(key for key in features if _is_text(features[key])) if hasattr(features, "keys") else []
    if text_key not in keys:
        advice = f"it has: {', '.join(keys)}" if keys else "it has none; choose another data.tfds_name"
        raise DataError(f"data.text_key={text_key} is not a text of {builder.info.full_name}; {advice}")


def _is_text(feature) -> bool:
    import tensorflow_datasets as tfds

    # `Text` is a `Tensor`; a feature that is neither, such as an encoded image, is no text.
    if not isinstance(feature, tfds.features.Tensor):
        return False
    info = feature.get_tensor_info()
    return info.shape == () and info.tf_dtype.name == "string"
