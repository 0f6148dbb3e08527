"""Exports of every kind of model to every format, and the page about them; needs requirements-export.txt."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.config import AxialRopeConfig, AxialViTConfig, RopeConfig, RopeScalingConfig, TransformerLMConfig
from models.exported import image_module, text_module
from models.transformer import TransformerLM
from models.vit import AxialViT
from runs.exports import FORMATS, check_logits, classifier_of_pixels
from scripts.export import main
from scripts.generate import main as generate
from system.text import escape
from tests.run_helpers import (
    LM_SIZES,
    VIT_SIZES,
    save_untrained_image_run,
    save_untrained_text_run,
    with_random_weights,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
FACTOR = {"factor": 2.0, "original_max_position_embeddings": 8}
LONGROPE = {
    "short_factor": (1.0, 1.0, 2.0, 2.0),
    "long_factor": (1.0, 2.0, 3.0, 4.0),
    "original_max_position_embeddings": 8,
    "max_position_embeddings": 16,
}


def rope(scaling=None, **options):
    return {"rope": RopeConfig(**options, scaling=RopeScalingConfig(**(scaling or {})))}


TEXT = [
    rope(),
    rope(layout="half", xpos=True),
    rope(layout="half", rotary_fraction=0.5, learned_freq=True),
    rope({"type": "linear", "factor": 2.0}, xpos=True) | {"learned_rotations": "per_token"},
    rope({"type": "ntk", "factor": 2.0}) | {"num_kv_heads": 1, "qk_norm": True},
    rope({"type": "dynamic", **FACTOR}, layout="half") | {"learned_rotations": "cumulative"},
    rope({"type": "yarn", **FACTOR}),
    rope({"type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **FACTOR}, layout="half"),
    rope({"type": "longrope", **LONGROPE}) | {"attention_kernel": "chunked"},
    rope({"type": "proportional", "partial_rotary_factor": 0.5}),
    {"position": "learned", "vocab_size": 300},
    {"position": "sinusoidal"},
    {"position": "alibi"},
    {"position": "none", "learned_rotations": "cumulative"},
]
IMAGES = [
    {},
    {"pooling": "class_token", "rope": AxialRopeConfig(layout="half", learned_freq=True)},
    {"attention": "axial", "learned_rotations": "per_token", "rope": AxialRopeConfig(freqs_for="pixel")},
    {"position": "mixed", "pooling": "class_token", "attention_kernel": "chunked"},
    {"position": "learned", "learned_rotations": "per_token", "pooling": "class_token"},
    {"position": "sinusoidal", "attention": "axial"},
    {"position": "none"},
]


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_kind_of_language_model_is_exported(file_format, tmp_path):
    for number, options in enumerate(TEXT):
        separator = 0 if number == 0 else None
        config = TransformerLMConfig(context_length=16, **(LM_SIZES | {"num_kv_heads": 2} | options))
        model = with_random_weights(TransformerLM(config, document_separator=separator), 0.3)
        path = tmp_path / str(number)
        path.mkdir()
        module = text_module(model, tokens_are_bytes=False, stop_tokens=(0,))
        if number:
            del module.generate  # which takes seconds to trace
        logits = FORMATS[file_format](module, model, path)
        for shape in ((2, 5), (3, 11))[: 1 if file_format == "keras" else 2]:  # Keras compiles for each
            tokens = np.random.default_rng(number).integers(0, 9, shape).astype(np.int32)
            assert check_logits(logits(tokens), model(tokens).numpy()) < 1e-5, options


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_every_kind_of_vision_transformer_is_exported(file_format, tmp_path):
    mean, deviation = np.float32([0.2, 0.3, 0.4]), np.float32([0.5, 0.3, 0.2])
    for number, options in enumerate(IMAGES):
        config = AxialViTConfig(**(VIT_SIZES | options)).for_images(8, 12, channels=3, num_classes=7)
        model = with_random_weights(AxialViT(config), 0.3)
        path = tmp_path / str(number)
        path.mkdir()
        module = image_module(model, mean=mean, deviation=deviation)
        logits = FORMATS[file_format](module, classifier_of_pixels(model, mean, deviation), path)
        for count in (2, 3):
            images = np.random.default_rng(number).integers(0, 256, (count, 8, 12, 3)).astype(np.uint8)
            expected = model(((images / 255 - mean) / deviation).astype(np.float32)).numpy()
            assert check_logits(logits(images), expected) < 1e-5, options


@pytest.mark.slow
def test_the_page_about_export_is_true(run, tmp_path, monkeypatch):
    outputs = tmp_path / "outputs"
    text_run, *_ = save_untrained_text_run(tmp_path / "text", tokenizer="bpe", vocab_size=None)
    image_run, *_ = save_untrained_image_run(tmp_path / "images")
    outputs.mkdir()
    (outputs / "lm").symlink_to(text_run)
    (outputs / "vit").symlink_to(image_run)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python -m scripts.export (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert run(main, *command.split())[0] == 0
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(snippets) == 6
    environment = {**os.environ, "PYTHONPATH": ""}
    for snippet in snippets:
        exec(compile(snippet, "docs/export.md", "exec"), {})
    (snippet,) = (snippet for snippet in snippets if ".generate(" in snippet)
    done = subprocess.run([sys.executable, "-c", snippet], env=environment, capture_output=True, check=True)
    _, text, _ = run(generate, "outputs/lm", "--prompt", "def ", "--length", 200, "--temperature", 0)
    assert escape(done.stdout.decode()) == text
