"""Export of runs from the command line."""

import errno
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import runs.exports
from models.huggingface import load_pretrained
from scripts.export import FORMATS, main
from system.text import ROOT, format_command
from tests.run_helpers import save_untrained_image_run, save_untrained_text_run

LINE = r"wrote {}: ([\d.]+) MB, \d+\.\d ms a call of {}; the logits of \d+ held-out rows differ by (\S+) .*\n"


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    return save_untrained_image_run(tmp_path_factory.mktemp("images"), position="mixed")


def export(run, directory, file_format, output, shape):
    code, line, errors = run(main, directory, "--format", file_format, "--output", output)
    assert (code, errors) == (0, [])
    megabytes, difference = re.fullmatch(LINE.format(re.escape(str(output)), shape), line).groups()
    assert 0 < float(megabytes) < 1 and float(difference) < 1e-5
    return output


def test_a_language_model_is_exported_to_each_format_of_tensorflow(untrained_text, run, tmp_path):
    directory, _, model = untrained_text
    tokens = np.random.default_rng(0).integers(0, 256, (3, 7)).astype(np.int32)
    loaded = tf.saved_model.load(export(run, directory, "saved_model", tmp_path / "saved", "1x24"))
    assert set(loaded.signatures) == {"serving_default", "logits", "generate"}
    litert = export(run, directory, "litert", tmp_path / "litert", "1x24") / "model.tflite"
    with pytest.warns(UserWarning, match="LiteRT"):
        interpreter = tf.lite.Interpreter(str(litert))
    keras_file = export(run, directory, "keras", tmp_path / "keras", "1x24") / "model.keras"
    restored = keras.models.load_model(keras_file)
    for logits in (
        loaded.signatures["logits"](tokens=tokens)["logits"],
        interpreter.get_signature_runner()(tokens=tokens)["logits"],
        restored(tokens),
    ):
        np.testing.assert_allclose(logits, model(tokens), atol=1e-4)  # float32 logits of tens
    # Select TensorFlow operations would appear as custom operations.
    assert not [detail for detail in interpreter._get_ops_details() if detail["op_name"].startswith("Flex")]
    (text,) = loaded.generate(["def née"], 3, 0.0, 0)["text"].numpy()
    assert text.startswith("def née".encode()) and len(text) <= 11


def test_a_vision_transformer_is_exported_with_its_preprocessing(image_run, run, tmp_path):
    directory, task, model = image_run
    images = task.images.validation.images[5:8]
    expected = model(task.normalize(images))
    output = export(run, directory, "saved_model", tmp_path / "saved", "1x8x8x1")
    assert (output / "class_names.txt").read_text().split() == list(task.images.classes)
    predict = tf.saved_model.load(output).signatures["predict"]
    np.testing.assert_allclose(predict(images=images)["logits"], expected, atol=1e-4)
    # An image that is three times as wide is cropped to its center.
    wide = np.pad(images, ((0, 0), (0, 0), (8, 8), (0, 0)), constant_values=255)
    probabilities = predict(images=wide)["probabilities"]
    np.testing.assert_allclose(probabilities, tf.nn.softmax(expected), atol=1e-5)  # float32


def test_rows_of_the_vocabulary_without_a_token_are_left_out_for_transformers(run, tmp_path):
    directory, _, model = save_untrained_text_run(tmp_path / "text", vocab_size=300)
    loaded = load_pretrained(export(run, directory, "huggingface", tmp_path / "out", "1x24"))
    tokens = np.arange(24, dtype=np.int32)[np.newaxis]
    assert loaded.config.vocab_size == 256
    np.testing.assert_allclose(loaded(tokens), model(tokens)[..., :256], atol=1e-4)  # logits of tens


def refusal(run, directory, file_format, output):
    code, out, (error,) = run(main, directory, "--format", file_format, "--output", output)
    assert (code, out) == (2, "")
    return error.removeprefix("error: ")


def test_mistakes_are_reported_in_one_line(untrained_text, image_run, run, tmp_path, monkeypatch, capsys):
    directory, output = untrained_text[0], tmp_path / "output"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refusal(run, directory, "onnx", output)
    command = format_command("-m", "pip", "install", "-r", ROOT / "requirements-export.txt")
    assert error == f"--format onnx needs tf2onnx: {command}"
    shutil.copy(directory / "config.yaml", tmp_path)
    assert "has no checkpoint" in refusal(run, tmp_path, "keras", output)
    assert f"{tmp_path} exists" in refusal(run, directory, "keras", tmp_path)
    assert "needs a language model" in refusal(run, image_run[0], "huggingface", output)
    assert "No such file" in refusal(run, directory, "keras", tmp_path / "no" / "output")
    with pytest.raises(SystemExit, match="2"):
        main([str(directory), "--format", "onx", "--output", str(output)])
    assert "invalid choice: 'onx'" in capsys.readouterr().err


def test_a_failed_export_leaves_nothing(untrained_text, run, tmp_path, monkeypatch):
    directory, output = untrained_text[0], tmp_path / "output"

    def write(module, model, target):
        (target / "part").write_text("part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(runs.exports.FORMATS, "keras", write)
    assert refusal(run, directory, "keras", output) == f"cannot write {output} (No space left on device)"
    monkeypatch.setitem(
        runs.exports.FORMATS, "keras", lambda module, model, target: lambda x: model(x).numpy() + 0.01
    )
    assert "differ from those of the run by" in refusal(run, directory, "keras", output)
    assert not list(tmp_path.iterdir())
    assert (*runs.exports.FORMATS, "huggingface") == FORMATS
