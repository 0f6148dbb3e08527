"""Text sets of TensorFlow Datasets: a small set of our own goes through the real code, without a network."""

from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data.config import TfdsTextConfig
from data.text import load_text
from system.errors import DataError

POEMS = {
    "train": [f"poem {index}: " + "la " * (index % 7 + 1) for index in range(180)],
    "test": ["poem 3: la la la la ", "a poem of the test split", "another of them"],
}


class TinyPoems(tfds.core.GeneratorBasedBuilder):
    """A set with a text, a title, a class and two splits."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "verse": tfds.features.Text(),
            "title": tfds.features.Text(),
            "mood": tfds.features.ClassLabel(names=["glad", "sad"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(poems) for split, poems in POEMS.items()}

    def _generate_examples(self, poems):
        for index, poem in enumerate(poems):
            yield index, {"verse": poem, "title": f"title {index}", "mood": index % 2}


class UnreachablePoems(TinyPoems):
    """A set whose only server does not listen."""

    url_infos: ClassVar = {"http://127.0.0.1:9/poems.txt": None}


class BrokenPoems(TinyPoems):
    """A set that fails while it is prepared."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("the connection broke\nwith details on a second line")


@pytest.fixture
def load(tmp_path):
    def load(*, report=lambda message: None, **options):
        options = {"tfds_name": "tiny_poems", "text_key": "verse"} | options
        folders = {"data_dir": str(tmp_path / "tfds"), "cache_dir": str(tmp_path / "cache")}
        return load_text(TfdsTextConfig(**folders, **options), report=report)

    return load


def documents_of(tokens: np.ndarray) -> list[str]:
    return tokens.tobytes().decode()[1:-1].split("\0")


def test_examples_are_documents_and_some_are_held_out(load):
    corpus = load()
    train, validation = documents_of(corpus.train), documents_of(corpus.validation)
    assert sorted(train + validation) == sorted(POEMS["train"])
    assert 1 <= len(validation) < 25  # 9 expected, standard deviation 3
    assert corpus.description.startswith("tfds tiny_poems/1.2.0: ")


def test_a_validation_split_is_held_out_without_what_repeats_training_text(load):
    corpus = load(validation_split="test")
    assert sorted(documents_of(corpus.train)) == sorted(POEMS["train"])
    assert sorted(documents_of(corpus.validation)) == sorted(POEMS["test"][1:])


def test_splits_may_be_expressions(load):
    corpus = load(train_split="train[:50%]", validation_split="train[150:160]+train[170:]")
    assert (corpus.train_documents, corpus.validation_documents) == (90, 20)
    assert not set(documents_of(corpus.train)) & set(documents_of(corpus.validation))


def test_what_two_splits_share_is_trained_on_and_not_held_out(load):
    corpus = load(train_split="train[:150]", validation_split="train[120:]")
    assert (corpus.train_documents, corpus.validation_documents) == (150, 30)
    assert not set(documents_of(corpus.train)) & set(documents_of(corpus.validation))


def test_another_key_is_another_text(load):
    titles = load(text_key="title")
    assert sorted(documents_of(titles.train) + documents_of(titles.validation))[0] == "title 0"
    assert titles.fingerprint != load().fingerprint


def test_a_second_load_reads_no_example(load, monkeypatch):
    first = load()
    monkeypatch.setattr(TinyPoems, "as_dataset", lambda *args, **kwargs: pytest.fail("read again"))
    assert load().fingerprint == first.fingerprint


def test_the_order_is_the_same_in_every_reading(load, tmp_path):
    again = TfdsTextConfig(
        "tiny_poems", text_key="verse", data_dir=str(tmp_path / "tfds"), cache_dir=str(tmp_path)
    )
    assert load().fingerprint == load_text(again, report=lambda message: None).fingerprint


def test_tfds_prints_nothing_and_the_download_is_told_in_a_line(load, capfd):
    messages = []
    load(report=messages.append)
    load(report=messages.append)
    printed = capfd.readouterr()
    assert [message.split(" into ")[0] for message in messages] == [
        "downloading tiny_poems/1.2.0",
        "tokenizing 180 examples of tfds tiny_poems/1.2.0",
    ]
    assert printed.out == ""
    assert "Generating" not in printed.err  # the title of the progress bars
    assert "WARNING:absl" not in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tfds_name": "tiny_poem"}, r"no set 'tiny_poem'; did you mean tiny_poems\?"),
        ({"tfds_name": "tiny_shakespere"}, r"no set 'tiny_shakespere'; did you mean tiny_shakespeare\?"),
        ({"tfds_name": "qqqqqqqq"}, r"no set 'qqqqqqqq'; see https://"),
        ({"tfds_name": "imdb_reviews/plan_text"}, r"plan_text not found .*did you mean plain_text\?"),
        ({"tfds_name": "tiny_poems:9.9.9"}, r"cannot be loaded at version 9\.9\.9, only: 1\.2\.0"),
        ({"tfds_name": "Tiny Poems!"}, r"Tiny Poems! cannot be loaded: Parsing builder name string"),
        ({"text_key": "text"}, r"data\.text_key=text .*it has: title, verse$"),
        ({"text_key": "mood"}, r"data\.text_key=mood .*it has: title, verse$"),
        ({"tfds_name": "mnist"}, r"not a text of mnist/.*; it has none; choose another"),
        ({"train_split": "trian"}, r"data\.train_split=trian is not a split .*it has: train, test"),
        ({"train_split": "train[:x]"}, r"data\.train_split=train\[:x\] is not a split"),
        ({"validation_split": "dev"}, r"data\.validation_split=dev is not a split .*it has: train, test"),
        ({"train_split": "train[5:5]"}, r"data\.train_split=train\[5:5\] has no examples"),
        (
            {"validation_split": "train"},
            r"no text is left to hold out: of 360 examples, 0 skipped, 180 repeated",
        ),
        (
            {"tfds_name": "unreachable_poems"},
            r"unreachable_poems/1\.2\.0 could not .*no connection to 127\.0\.0\.1",
        ),
        (
            {"tfds_name": "broken_poems"},
            r"broken_poems/1\.2\.0 could not .*the connection broke\. Check the network",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(load, options, message):
    with pytest.raises(DataError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_failed_download_names_the_folder(load, tmp_path):
    with pytest.raises(DataError, match=f"in {tmp_path}/tfds/broken_poems/1.2.0: .*data.data_dir="):
        load(tfds_name="broken_poems")
