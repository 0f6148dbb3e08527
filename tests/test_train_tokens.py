"""Runs in the tokens of a subword tokenizer, from training to generation."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from configs.compose import load_config
from data.config import PasskeyConfig
from data.tokenizer import read_tokenizer
from models.sampling import Sampler, SamplingOptions
from runs.evaluate_runs import evaluate_runs
from runs.load import load_run, load_task
from runs.text_task import load_passkey_task
from scripts.evaluate import main as evaluate
from scripts.visualize import main as visualize
from tests.run_helpers import WITHOUT_SAMPLES, assert_mentions, copy_of

BPE = ("data.tokenizer=bpe", "data.bpe_vocab_size=290", "model.vocab_size=320")
BRIEF = ("num_steps=4", "eval_every=2", "checkpoint_every=2")


@pytest.fixture(scope="module")
def bpe_run(workplace):
    """Directory of a finished run with its own tokenizer of 290 tokens."""
    assert workplace.train(*BPE, *BRIEF, "name=bpe", WITHOUT_SAMPLES) == 0
    return workplace.outputs / "bpe"


@pytest.fixture(scope="module")
def file_run(workplace, bpe_run, tmp_path_factory):
    """Directory of a finished run with the tokenizer of a file that is gone."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    shutil.copy(bpe_run / "tokenizer.json", path)
    words = (*BRIEF, f"data.tokenizer={path}", "name=file", WITHOUT_SAMPLES)
    assert workplace.train(*words) == 0
    path.unlink()
    return workplace.outputs / "file", words, path


def test_the_run_records_its_tokenizer_and_the_size_of_its_vocabulary(bpe_run):
    assert read_tokenizer(bpe_run).vocab_size == 290
    summary = json.loads((bpe_run / "summary.json").read_text())
    task = load_task(load_config(bpe_run / "config.yaml"), run_directory=bpe_run)
    corpus = task.corpus
    assert summary["tokenizer_training_bytes"] == corpus.num_bytes["train"]
    assert summary["context_bytes"] == corpus.bytes_of(16) > 24
    for row in map(json.loads, (bpe_run / "metrics.jsonl").read_text().splitlines()):
        if "validation_loss" in row:
            assert row["bits_per_byte"] == corpus.bits_per_byte(row["validation_loss"])
    assert f"; a vocabulary of 290, about {corpus.bytes_of(16)} bytes in 16 tokens" in task.description


def test_evaluation_in_two_tokenizers_equals_a_numpy_reference(eagerly, trained_run, bpe_run):
    rows = evaluate_runs([trained_run, bpe_run], None)
    for row, path in zip(rows, (trained_run, bpe_run), strict=True):
        run = load_run(path)
        corpus = load_task(run.config, run_directory=path).corpus
        tokens, length, nats = np.asarray(corpus.validation, np.int32), 16, 0.0
        for start in range(0, len(tokens) - 1, length):
            window = tokens[start : start + length + 1]
            logits = run.model(window[None, :-1]).numpy()[0].astype(float)
            peak = logits.max(axis=1)
            entropies = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
            nats += (entropies - logits[np.arange(len(window) - 1), window[1:]]).sum()
        text = corpus.tokenizer.decode(tokens[tokens != corpus.tokenizer.separator]).encode()
        assert (row["targets"], row["bytes"]) == (len(tokens) - 1, len(text))
        # float32 logits
        assert row["bits_per_byte"] == pytest.approx(nats / (len(text) * math.log(2)), rel=1e-5)
    assert rows[0]["bytes"] == rows[1]["bytes"]


def test_a_run_needs_neither_the_file_nor_the_cache_again(workplace, file_run, eagerly):
    path, words, _ = file_run
    shutil.rmtree(workplace.text.parent / "cache")
    copy = copy_of(path, "unfinished")
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "summary.json").unlink()
    assert workplace.train(*words, "name=unfinished") == 0
    assert json.loads((copy / "summary.json").read_text())["step"] == 4
    assert load_config(copy / "config.yaml").model.vocab_size == 290  # that of the tokenizer
    assert (copy / "tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()


def test_a_kill_after_the_first_checkpoint_does_not_lose_the_tokenizer(workplace, bpe_run, eagerly):
    copy = copy_of(bpe_run, "killed")
    for name in ("config.yaml", "tokenizer.json", "summary.json"):
        (copy / name).unlink()
    assert workplace.train(*BPE, *BRIEF, "name=killed", WITHOUT_SAMPLES) == 0
    for name in ("tokenizer.json", "config.yaml"):
        content = (bpe_run / name).read_bytes().replace(b"name: bpe", b"name: killed")
        assert (copy / name).read_bytes() == content


def write_other_tokenizer(run, path):
    """Writes the tokenizer of a run without its last merge."""
    content = json.loads((run / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content))


def test_another_tokenizer_on_resume_is_refused(bpe_run, file_run, refused):
    path, words, tokenizer_path = file_run
    write_other_tokenizer(path, tokenizer_path)
    (line,) = refused(*words, label="config error")
    assert_mentions(line, f"data.tokenizer={tokenizer_path}", str(path / "tokenizer.json"), "name=")
    tokenizer_path.unlink()
    for value in ("bytes", "bpe"):
        lines = refused(*words, f"data.tokenizer={value}", label="config error")
        assert_mentions(lines[0], "data.tokenizer is a file there", value)
    words = (BPE[2], *BRIEF, "name=bpe", "data.tokenizer=bytes")
    lines = refused(*words, label="config error")
    assert_mentions(lines[0], "data.tokenizer is bpe there, bytes here")


def test_a_child_takes_the_tokenizer_of_its_parent(workplace, bpe_run, refused, capsys, eagerly):
    child = ("init_from=" + str(bpe_run), "num_steps=1", "name=child", WITHOUT_SAMPLES)
    assert workplace.train(*child) == 0
    directory = workplace.outputs / "child"
    assert (directory / "tokenizer.json").read_bytes() == (bpe_run / "tokenizer.json").read_bytes()
    config = load_config(directory / "config.yaml")
    assert (config.model.vocab_size, config.data.bpe_vocab_size) == (320, 4_096)  # the second is unused
    assert config.data.tokenizer == str(bpe_run / "tokenizer.json")
    assert workplace.train(*child) == 0  # the same command again
    assert "This run is complete" in capsys.readouterr().out
    line = refused(*child, "name=new", "data.bpe_vocab_size=300", label="config error")[0]
    assert_mentions(line, "data.bpe_vocab_size has no effect with init_from")
    other = workplace.outputs / "other.json"
    write_other_tokenizer(bpe_run, other)
    for value in ("bytes", "bpe", other):
        (line,) = refused(*child, "name=new", f"data.tokenizer={value}", label="config error")
        assert_mentions(line, f"data.tokenizer={value} is another tokenizer", str(bpe_run))


def test_passkeys_are_written_in_the_tokens_of_the_parent(bpe_run):
    tokenizer = read_tokenizer(bpe_run)
    config = load_config(bpe_run / "config.yaml")
    data = PasskeyConfig(tokenizer=str(bpe_run), digits=4)
    task = load_passkey_task(replace(config, context_length=90, data=data))
    inputs, targets = task.evaluation_batches(max_batches=1)[0]
    assert inputs.shape == (4, 90)
    for row, target in zip(inputs, targets, strict=True):
        answer = target[target >= 0]
        assert len(answer) == 4
        text = tokenizer.decode([*row, target[-1]])
        key = tokenizer.decode(answer)
        assert text.endswith(f"What was the key? The key: {key}")
        assert f"The key: {key}. " in text
        assert row[0] == tokenizer.separator


def test_a_vocabulary_smaller_than_that_of_the_tokenizer_is_refused(refused):
    (line,) = refused(*BPE[:2], "name=new", "model.vocab_size=289")
    assert_mentions(line, "model.vocab_size=289 is smaller than", "290 tokens")
    (line,) = refused("name=new", "model.vocab_size=255", "data.tokenizer=bytes")
    assert_mentions(line, "model.vocab_size=255 is smaller than", "256 tokens")


def test_padding_is_never_sampled(bpe_run, eagerly):
    model = load_run(bpe_run).model
    model.embedding.embeddings.assign(np.zeros((320, 16)))  # every token has the same logit
    for sampler, is_padding in ((Sampler(model, vocab_size=290), False), (Sampler(model), True)):
        steps = sampler.generate([[5]] * 20, 5, SamplingOptions())
        assert any((tokens >= 290).any() for tokens in steps) == is_padding


def test_commands_read_the_tokens_of_the_run(eagerly, bpe_run, tmp_path, capsys):
    evaluate([str(bpe_run), "--windows", "4", "8", "--json", "--targets", "60"])
    output = capsys.readouterr().out
    rows = json.loads(output[output.index("[\n") :])
    for row in rows:
        assert 1 < row["bytes"] / row["targets"] < 5
        nats = row["nats_per_token"] * row["targets"]
        assert row["bits_per_byte"] == pytest.approx(nats / (row["bytes"] * math.log(2)))
    visualize([str(bpe_run), "--prompt", "the quick brown", "--output", str(tmp_path)])
    assert (tmp_path / "attention.png").exists()
