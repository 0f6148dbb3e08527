"""Import of a Hugging Face folder, and the commands that continue with it."""

import hashlib
import json
import re

import numpy as np
import pytest

import train
from configs.compose import load_config
from data.tokenizer import train_bpe
from models.config import RopeConfig, TransformerLMConfig
from models.huggingface import load_pretrained, save_pretrained
from models.transformer import TransformerLM
from runs.load import load_run
from scripts import evaluate, export, generate
from scripts.import_hf import main
from tests.models.reference import relative_difference
from tests.run_helpers import LM_SIZES, with_random_weights
from training.checkpoints import read_latest_manifest

CONFIG = TransformerLMConfig(
    vocab_size=320,
    context_length=12,
    qkv_bias=True,
    qk_norm=False,
    norm_epsilon=1e-6,
    rope=RopeConfig(theta=500.0, layout="half"),
    **LM_SIZES,
)
TEXT = "".join(f"line {number} of {number * number}\n" for number in range(299))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a model with random weights and a tokenizer of 300 tokens, and its text."""
    path = tmp_path_factory.mktemp("folder")
    (path / "text").mkdir()
    for number in range(3):
        (path / "text" / f"{number}.txt").write_text(TEXT.replace("of", "of" * number))
    model = with_random_weights(TransformerLM(CONFIG), 0.5)
    save_pretrained(model, path / "model", train_bpe([TEXT], vocab_size=280))
    return path


@pytest.fixture(scope="module")
def options(folder):
    return [
        "data=text_files",
        f"data.path={folder / 'text'}",
        f"data.cache_dir={folder / 'cache'}",
        f"output_dir={folder / 'outputs'}",
        "data.held_out=0.2",
        "precision=float32",
        "compile=graph",
    ]


@pytest.fixture(scope="module")
def imported(folder, options):
    main([str(folder / "model"), "--name", "imported", *options])
    return folder / "outputs" / "imported"


def test_an_imported_model_is_a_run_that_records_its_source(folder, imported):
    config, (_, manifest) = load_config(imported / "config.yaml"), read_latest_manifest(imported)
    assert (config.model, config.context_length) == (CONFIG, 12)
    assert (config.data.source, manifest["step"]) == ("text_files", 0)
    assert manifest["imported_from"] == str(folder / "model")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        digest = hashlib.sha256((folder / "model" / name).read_bytes()).hexdigest()
        assert manifest["imported_files"][name] == digest
    assert (imported / "tokenizer.json").read_bytes() == (folder / "model" / "tokenizer.json").read_bytes()
    model = load_run(imported).model
    tokens = np.arange(11, dtype=np.int32)[np.newaxis]
    np.testing.assert_array_equal(model(tokens), load_pretrained(folder / "model")(tokens))


def test_an_imported_model_generates_and_is_evaluated(imported, run):
    code, text, _ = run(generate.main, imported, "--prompt", "line 7", "--length", 3, "--temperature", 0)
    assert code == 0 and text.startswith("line 7")
    code, out, _ = run(evaluate.main, imported, "--windows", 12, 24, "--zero-shot", "linear,yarn")
    assert code == 0 and re.search(r"yarn +24 ", out)


def test_an_imported_model_is_exported_and_imported_again_with_equal_tensors(folder, imported, run, tmp_path):
    code, line, errors = run(export.main, imported, "--format", "huggingface", "--output", tmp_path / "out")
    assert (code, errors) == (0, []) and "wrote" in line
    original, exported = load_pretrained(folder / "model"), load_pretrained(tmp_path / "out")
    for ours, theirs in zip(original.weights, exported.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    assert (tmp_path / "out" / "tokenizer.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n") and "# imported" in card and "| held-out result | not measured |" in card


@pytest.mark.slow
def test_a_child_of_an_imported_model_is_extended_and_exported(folder, imported, options, run, tmp_path):
    changes = ["experiment=extend_yarn", f"init_from={imported}", "name=long", "context_length=48"]
    changes += ["num_steps=2", "eval_every=2", "sample_every=null", options[3]]
    assert train.main(changes) == 0
    child = folder / "outputs" / "long"
    config = load_config(child / "config.yaml")
    assert (config.optimizer.learning_rate, config.model.qkv_bias) == (1e-4, True)
    code, _, _ = run(export.main, child, "--format", "huggingface", "--output", tmp_path / "out")
    assert code == 0
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["rope_parameters"]["rope_type"] == "yarn"
    assert values["rope_parameters"]["original_max_position_embeddings"] == 12
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"held-out result \| held-out loss [\d.]+ nats per token, [\d.]+ bits per byte", card)
    model = load_run(child).model
    tokens = np.arange(40, dtype=np.int32)[np.newaxis]
    assert relative_difference(load_pretrained(tmp_path / "out")(tokens), model(tokens)) < 1e-4


def test_mistakes_are_reported_in_one_line(folder, imported, options, run, tmp_path):
    def refusal(path, *changes, name="other"):
        code, out, errors = run(main, path, "--name", name, *options, *changes)
        assert (code, len(errors)) == (2, 1), (out, errors)
        assert not (folder / "outputs" / "other").exists()
        return errors[0]

    model = folder / "model"
    assert "is a run already" in refusal(model, name="imported")
    for override in ("model.dim=32", "name=third"):
        assert "cannot be set" in refusal(model, override)
    assert "has no config.json" in refusal(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    assert "cannot read the tokenizer" in refusal(tmp_path)
    (tmp_path / "tokenizer.json").write_text(train_bpe([TEXT], vocab_size=330).json)
    assert "smaller than the vocabulary of the tokenizer" in refusal(tmp_path)
