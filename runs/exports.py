"""Export of a trained model to a file format, and its comparison with the run on held-out data."""

import importlib.util
import statistics
import timeit
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data.tokenizer import FILE_NAME
from models.config import AxialViTConfig
from models.exported import image_module, text_module
from models.huggingface import load_pretrained, save_pretrained
from models.transformer import TransformerLM
from rope import plain_operations
from runs.load import Task, load_run, load_task
from system.command import silenced_standard_error
from system.errors import RunError, reason
from system.files import read_json_lines, replacing
from system.text import ROOT, format_command, print_error

TOLERANCE = 1e-4  # largest difference of the logits, in units of their standard deviation
COMPARED_ROWS, TIMED_CALLS = 8, 20
PACKAGES = {"onnx": ("tf2onnx", "onnxruntime")}  # that TensorFlow does not contain
Logits = Callable[[np.ndarray], np.ndarray]  # from tokens or uint8 images to logits


def export_run(run_directory: Path, file_format: str, output: Path, *, step: int | str = "latest") -> str:
    """Writes the model of a run to the new directory `output`, and returns a line about the result.

    Raises RunError if that is not possible, or the exported logits differ from those of the run.
    """
    for package in PACKAGES.get(file_format, ()):
        if importlib.util.find_spec(package) is None:
            command = format_command("-m", "pip", "install", "-r", ROOT / "requirements-export.txt")
            raise RunError(f"--format {file_format} needs {package}: {command}")
    if output.exists():
        raise RunError(f"{output} exists; remove it, or choose another --output")
    run = load_run(run_directory, precision="float32", step=step)
    model, config, manifest = run.model, run.config, run.manifest
    task = load_task(config, report=print_error, facts=manifest, run_directory=run_directory)
    write, is_for_transformers = FORMATS.get(file_format), file_format == "huggingface"
    if isinstance(config.model, AxialViTConfig):
        if is_for_transformers:
            raise RunError(f"--format huggingface needs a language model, {run_directory} is of images")
        module = image_module(model, mean=task.images.mean, deviation=task.images.deviation)
        inputs = np.asarray(task.images.validation.images[:COMPARED_ROWS])
        expected = model(task.normalize(inputs)).numpy()
        model = classifier_of_pixels(model, task.images.mean, task.images.deviation)
    else:
        if is_for_transformers:
            model.document_separator = None  # transformers does not restart positions
            write = partial(huggingface, task=task, step=manifest["step"], run_directory=run_directory)
        # An imported model and its children keep the tensors of their folder.
        if not is_for_transformers or not (config.init_from or "imported_from" in manifest):
            model = without_padding(model, task.tokenizer.vocab_size)
        is_bytes = task.tokenizer.json is None
        module = text_module(model, tokens_are_bytes=is_bytes, stop_tokens=task.tokenizer.stop_tokens)
        tokens, *_ = next(iter(task.evaluation_batches(max_batches=1)))
        inputs = np.asarray(tokens)[:COMPARED_ROWS]
        expected = model(inputs).numpy()
    try:
        with replacing(output) as temporary, silenced_standard_error():
            temporary.mkdir()
            if "classes" in manifest:
                names = "\n".join(manifest["classes"]) + "\n"
                (temporary / "class_names.txt").write_text(names, encoding="utf-8")
            elif task.tokenizer.json is not None:
                (temporary / FILE_NAME).write_text(task.tokenizer.json, encoding="utf-8")
            logits = write(module, model, temporary)
            difference = check_logits(logits(inputs), expected)
            seconds = timeit.repeat(lambda: logits(inputs[:1]), number=1, repeat=TIMED_CALLS)
            size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    except (OSError, tf.errors.OpError) as error:
        raise RunError(f"cannot write {output} ({reason(error)})") from error
    shape, milliseconds = "x".join(map(str, inputs[:1].shape)), 1_000 * statistics.median(seconds)
    return (
        f"wrote {output}: {size / 1e6:.2f} MB, {milliseconds:.1f} ms a call of {shape}; "
        f"the logits of {len(inputs)} held-out rows differ by {difference:.1e} of their standard deviation"
    )


def without_padding(model: TransformerLM, vocab_size: int) -> TransformerLM:
    """The model without the rows of its vocabulary from `vocab_size` on."""
    config = replace(model.config, vocab_size=vocab_size)
    smaller = TransformerLM(config, document_separator=model.document_separator)
    for variable, padded in zip(smaller.variables, model.variables, strict=True):
        variable.assign(padded[tuple(map(slice, variable.shape))])
    return smaller


def classifier_of_pixels(model: keras.Model, mean: np.ndarray, deviation: np.ndarray) -> keras.Model:
    """Model from pixels between 0 and 255 to logits."""
    rescaling = keras.layers.Rescaling((1 / (255 * deviation)).tolist(), (-mean / deviation).tolist())
    return keras.Sequential([keras.Input((None, None, len(mean))), rescaling, model])


def check_logits(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of the standard deviation; raises RunError above `TOLERANCE`."""
    difference = float(abs(actual - expected).max() / expected.std())
    if not difference <= TOLERANCE:
        raise RunError(
            f"the exported logits differ from those of the run by {difference:.1e} of their standard "
            f"deviation, more than {TOLERANCE}"
        )
    return difference


def saved_model(module: tf.Module, model: keras.Model, directory: Path) -> Logits:
    names = ("logits", "generate", "predict")
    signatures = {name: getattr(module, name) for name in names if hasattr(module, name)}
    with plain_operations():
        tf.saved_model.save(module, str(directory), {"serving_default": module.main, **signatures})
    loaded = tf.saved_model.load(str(directory))
    return lambda inputs: loaded.main(inputs)["logits"].numpy()


def keras_file(module: tf.Module, model: keras.Model, directory: Path) -> Logits:
    model.save(directory / "model.keras")
    loaded = tf.function(keras.models.load_model(directory / "model.keras"), reduce_retracing=True)
    return lambda inputs: loaded(inputs).numpy()


def litert(module: tf.Module, model: keras.Model, directory: Path) -> Logits:
    with plain_operations():
        function = module.main.get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    (directory / "model.tflite").write_bytes(content)
    with warnings.catch_warnings():  # it is deprecated in favour of the same class in ai-edge-litert
        warnings.simplefilter("ignore")
        runner = tf.lite.Interpreter(model_content=content).get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda inputs: runner(**{name: inputs})["logits"]


def onnx(module: tf.Module, model: keras.Model, directory: Path) -> Logits:
    import onnxruntime
    import tf2onnx

    path = str(directory / "model.onnx")
    with plain_operations():
        tf2onnx.convert.from_function(module.main, module.main.input_signature, opset=18, output_path=path)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(["logits"], {name: inputs})[0]


def huggingface(
    module: tf.Module, model: keras.Model, directory: Path, *, task: Task, step: int, run_directory: Path
) -> Logits:
    """Also writes the tokenizer, and a README.md with the held-out loss that the run logged at `step`."""
    rows = [row for row in read_json_lines(run_directory / "metrics.jsonl") if row["step"] == step]
    rows = [row for row in rows if "validation_loss" in row]
    config = task.config
    save_pretrained(model, directory, task.tokenizer)
    facts = {
        "parameters": f"{model.count_params():,}",
        "context": f"{config.context_length:,} tokens",
        "text": config.data.source,
        "training": f"{step:,} steps of {config.batch_size} x {config.context_length:,} tokens",
        "parent": config.init_from and Path(config.init_from).name,
        "held-out result": task.verdict(rows[-1]) if rows else "not measured",
    }
    header = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value]
    card = "\n".join([f"{header}\n# {config.name}\n", "| | |\n|---|---|", *lines, ""])
    (directory / "README.md").write_text(card, encoding="utf-8")
    loaded = load_pretrained(directory)
    return lambda inputs: loaded(inputs).numpy()


# Functions that write a module, or its Keras model, to a directory, and return the logits of the result.
FORMATS = {"saved_model": saved_model, "keras": keras_file, "litert": litert, "onnx": onnx}
