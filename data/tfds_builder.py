"""TensorFlow Datasets by name: found, downloaded and read, with its errors told in one line."""

import contextlib
import difflib
import io
import itertools
import logging
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from system.errors import DataError

REACH_TIMEOUT_SECONDS = 20


def find_builder(name: str, *, data_dir: str | None):
    """The builder of `name`, which is `dataset[/config][:version]`; downloads nothing.

    Raises:
        DataError: if there is no such set, config or version.
    """
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            return tfds.builder(name, data_dir=data_dir and str(Path(data_dir).expanduser()))
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        advice = _did_you_mean(_dataset_name(name), known)
        raise DataError(f"data.tfds_name={name}: there is no set {_dataset_name(name)!r}; {advice}") from None
    # A wrong version is an AssertionError, a wrong config or spelling a ValueError.
    except (AssertionError, ValueError, ImportError) as error:
        raise DataError(
            f"data.tfds_name={name} cannot be loaded: {_reason(error)}{_config_advice(name)}"
        ) from error


def prepare(builder, *, report: Callable[[str], None]) -> None:
    """Downloads and prepares the set of `builder` unless its `data_dir` has it.

    Raises:
        DataError: if that fails: no network, no permission, a data set that needs a manual download.
    """
    with _quiet():
        if builder.is_prepared():
            return
    report(f"downloading {builder.info.full_name} into {builder.data_dir}")
    try:
        _check_network(builder)
        with _quiet():
            builder.download_and_prepare()
    # TFDS raises AssertionError, OSError, ValueError, ImportError and its own errors without a common class.
    except Exception as error:
        raise DataError(
            f"{builder.info.full_name} could not be downloaded and prepared in {builder.data_dir}: "
            f"{_reason(error)}. Check the network and the folder, or prepare the set on another machine, "
            "copy it and name its folder with data.data_dir=..."
        ) from error


def count_examples(builder, split: str, *, option: str) -> int:
    """Number of examples in `split`, which may be an expression: `train[:90%]`, `validation+test`.

    Raises:
        DataError: if `split`, the value of `option`, is unknown or empty.
    """
    known = ", ".join(builder.info.splits)
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        raise DataError(
            f"{option}={split} is not a split of {builder.info.full_name}; it has: {known}, "
            "and parts of them such as 'train[:90%]'"
        ) from None
    if not count:
        raise DataError(f"{option}={split} has no examples in {builder.info.full_name}; it has: {known}")
    return count


def check_apart(builder, train: str, validation: str) -> None:
    """Raises DataError if the two splits, which must be known, have an example in common."""
    trained, held_out = (builder.info.splits[split].file_instructions for split in (train, validation))
    for a, b in itertools.product(trained, held_out):
        # TFDS gives a `take` of -1, all that is left, as their number.
        if a.filename == b.filename and max(a.skip, b.skip) < min(a.skip + a.take, b.skip + b.take):
            raise DataError(
                f"data.train_split={train} and data.validation_split={validation} share examples of "
                f"{builder.info.full_name}; choose splits apart, such as train[:90%] and train[90%:]"
            )


def read_examples(
    builder, split: str, *, keys: tuple[str, ...], batch_size: int | None = None
) -> Iterator[dict]:
    """Examples of a prepared set in their stored order, one dict of NumPy values with `keys` each.

    With `batch_size`, values of that many examples are stacked, which is faster; the last are fewer.
    """
    import tensorflow_datasets as tfds

    with _quiet():
        dataset = builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
            # One file after the other: the order does not depend on the number of processors.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
    yield from (dataset if batch_size is None else dataset.batch(batch_size)).as_numpy_iterator()


def _dataset_name(name: str) -> str:
    """`wikipedia` of `wikipedia/20230601.en:1.0.0`."""
    return name.split("/")[0].split(":")[0]


def _config_advice(name: str) -> str:
    """What to write for the config in `name`, if that is what is wrong."""
    import tensorflow_datasets as tfds

    known = list(tfds.builder_cls(_dataset_name(name)).builder_configs) if "/" in name else []
    config = name.split("/")[-1].split(":")[0]
    return f"; {_did_you_mean(config, known)}" if known and config not in known else ""


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, sorted(set(known)), n=3)
    return (
        f"did you mean {' or '.join(close)}?" if close else "see https://www.tensorflow.org/datasets/catalog"
    )


def _check_network(builder) -> None:
    """Raises OSError at once where TFDS would retry for minutes: the first server cannot be reached."""
    urls = [url for url in builder.url_infos or () if url.startswith("http")]
    if not urls or _is_downloaded(builder, urls[0]):
        return
    request = urllib.request.Request(urls[0], method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=REACH_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # The server answers; TFDS asks it in its own way.
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise OSError(f"no connection to {request.host} ({error.reason})") from error


def _is_downloaded(builder, url: str) -> bool:
    records = (Path(builder.data_dir_root) / "downloads").rglob("*.INFO")
    return any(url in record.read_text("utf-8") for record in records)


@contextlib.contextmanager
def _quiet():
    """Keeps TFDS's prints and warnings to itself, and its progress bars too where no one watches them."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of TFDS's message, without the arguments it repeats."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0].split('}": ')[-1].split(". Here are ")[0]
    return reason[:300].rstrip(". :")
