"""Corpora in the tokens of a subword tokenizer."""

import json
import math

import numpy as np
import pytest

from data import corpus as corpora_module
from data.config import TextFilesConfig
from data.corpus import TextCorpus, load_text
from data.tokenizer import BYTES, JsonTokenizer

WORDS = "the quick brown fox jumps over lazy dogs naïve 你好 \U0001f600 while seven wizards vex"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 documents, one of which names the separator."""
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(60):
        text = " ".join(draw.choice(WORDS.split(), 5 + index))
        (folder / f"{index:02}.txt").write_text(text + ("<|endoftext|>\n" if index == 7 else "\n"))
    return folder


def load(folder, *, report=lambda message: None, run_tokenizer=None, **options):
    options = {"path": str(folder), "held_out": 0.2, "cache_dir": str(folder.parent / "cache")} | options
    return load_text(TextFilesConfig(**options), tokenizer=run_tokenizer, report=report)


@pytest.fixture(scope="module")
def corpora(folder):
    """The same documents in bytes and in 320 tokens."""
    return load(folder), load(folder, tokenizer="bpe", bpe_vocab_size=320)


def documents_of(corpus, split):
    """The documents between the separators."""
    tokens = np.asarray(getattr(corpus, split))
    separators = np.flatnonzero(tokens == corpus.tokenizer.separator)
    assert separators[0] == 0 and separators[-1] == len(tokens) - 1
    return [corpus.tokenizer.decode(part[1:]) for part in np.split(tokens, separators[1:])[:-1]]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_documents_and_their_bytes_are_those_of_the_byte_corpus(corpora, split):
    in_bytes, in_tokens = corpora
    documents = [text.strip("\0") for text in documents_of(in_bytes, split)]
    assert documents_of(in_tokens, split) == documents
    size = sum(len(document.encode()) for document in documents)
    assert in_bytes.num_bytes[split] == in_tokens.num_bytes[split] == size
    assert getattr(in_tokens, split).dtype == np.uint16
    assert len(getattr(in_tokens, split)) < size / 2


def test_bits_per_byte_do_not_depend_on_the_tokenizer(corpora):
    """A model that gives each byte, and the separator, 5 bits has the same bits per byte in any tokens."""
    found = []
    for corpus in corpora:
        sizes = [max(1, len(corpus.tokenizer.token_bytes(token))) for token in corpus.validation[1:]]
        found.append(corpus.bits_per_byte(5 * math.log(2) * np.mean(sizes)))
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert 5 < found[0] < 5.2  # separators have bits, but no bytes


@pytest.fixture
def texts_read(monkeypatch):
    """The texts that a tokenizer is trained on."""
    read, real = [], corpora_module.train_bpe
    monkeypatch.setattr(corpora_module, "train_bpe", lambda texts, **o: real(read.extend(texts) or read, **o))
    return read


def test_the_training_split_alone_trains_the_tokenizer(folder, texts_read):
    corpus = load(folder, tokenizer="bpe", bpe_vocab_size=300)
    assert [text for text in texts_read if text] == documents_of(corpus, "train")


def test_long_training_text_is_sampled_evenly(monkeypatch, tmp_path, texts_read):
    monkeypatch.setattr(corpora_module, "MAX_TRAINING_BYTES", 40)
    monkeypatch.setattr(corpora_module, "TRAINING_PIECE_BYTES", 10)
    stored = np.frombuffer(b"\0" + b"".join(b"%04d" % n for n in range(250)) + b"\0", np.uint8)
    corpus = TextCorpus(stored, stored, "0", "made", {"train": 1_000, "validation": 1_000})
    config = TextFilesConfig(path="made", tokenizer="bpe", bpe_vocab_size=257, cache_dir=str(tmp_path))
    corpora_module.train_tokenizer(corpus, config, lambda line: None)
    assert list(filter(None, texts_read)) == ["000000010", "0820083008", "0165016601", "702480249"]


def test_a_second_load_tokenizes_nothing(folder, corpora, monkeypatch):
    monkeypatch.setattr(JsonTokenizer, "encode_parts", lambda self, parts: pytest.fail("encoded again"))
    again = load(folder, tokenizer="bpe", bpe_vocab_size=320)
    np.testing.assert_array_equal(again.train, corpora[1].train)
    assert isinstance(again.train, np.memmap)
    recorded = load(folder, tokenizer="bpe", bpe_vocab_size=320, run_tokenizer=again.tokenizer)
    assert recorded.fingerprint == again.fingerprint


def test_long_documents_are_encoded_in_pieces_without_loss(monkeypatch, corpora):
    monkeypatch.setattr(corpora_module, "PIECE_BYTES", 16)
    monkeypatch.setattr(corpora_module, "BLOCK_BYTES", 40)
    documents = ["你好" * 40, "a" * 16, "short", "a line\nand another line\n" * 9, "x" * 15, "\U0001f600" * 9]
    stored = np.frombuffer(("\0" + "\0".join(documents) + "\0").encode(), np.uint8)
    blocks = list(corpora_module.read_blocks(stored))
    assert len(blocks) > 5
    pieces = [piece for block in blocks for piece in block]
    assert all(len(text.encode()) <= 16 for text, _ in pieces)
    assert "".join("\0" * is_first + text for text, is_first in pieces) == "\0" + "\0".join(documents)
    alone = np.frombuffer(f"\0{documents[0]}\0".encode(), np.uint8)
    own = [piece for block in corpora_module.read_blocks(alone) for piece in block]
    assert own == pieces[: len(own)]  # independent of the others


def test_progress_reports_rate_and_remaining_time(folder, corpora, monkeypatch):
    monkeypatch.setattr("data.sources.REPORT_EVERY_SECONDS", 0)
    lines = []
    load(folder, tokenizer="bpe", bpe_vocab_size=310, report=lines.append)
    total = len(corpora[0].train) + len(corpora[0].validation)
    assert f"training a tokenizer on {len(corpora[0].train):,} bytes of text_files" in lines
    assert f"tokenizing {total:,} bytes of text_files" in lines
    assert any(line.startswith("tokenized ") and line.endswith("0:00 left") for line in lines)


def test_a_tokenizer_file_is_used_as_it_is(folder, corpora, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(corpora[1].tokenizer.json)
    assert load(folder, tokenizer=str(path)).fingerprint == corpora[1].fingerprint
    assert load(folder, tokenizer="bytes").tokenizer is BYTES


def test_a_tokenizer_that_changes_the_text_is_noted(folder, corpora, tmp_path):
    content = json.loads(corpora[1].tokenizer.json)
    content["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (folder.parent / "upper.txt").write_text("THE QUICK BROWN FOX\n" * 9)
    for name, is_noted in (("upper.txt", True), ("texts", False)):
        lines = []
        load(folder.parent / name, tokenizer=str(tmp_path), report=lines.append)
        assert any("bits per byte are too low" in line for line in lines) == is_noted
