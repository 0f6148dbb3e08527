"""Workloads of this repository: each function returns a `Work`, which is timed in its own process."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from benchmarks.harness import CALLS, CHANNELS, CLASSES, PATCH_SIZE, Work
from models.config import AxialViTConfig, TransformerLMConfig
from models.sampling import Sampler, SamplingOptions
from models.transformer import TransformerLM
from models.vit import AxialViT
from rope.embedding import RotaryEmbedding
from system.text import ROOT
from training.config import OptimizerConfig, TrainingConfig
from training.hardware import resolve_compile, resolve_precision
from training.optimizer import make_optimizer
from training.step import make_train_step

OPTIMIZER = OptimizerConfig(name="adamw")  # as that of the other libraries


def rotation(*, layout: str, head_dim: int, **options) -> Work:
    rotary = RotaryEmbedding(head_dim, layout=layout)
    return time_rotation(rotary.rotate_queries_or_keys, head_dim=head_dim, **options)


def copy(**options) -> Work:
    """TensorFlow's copy of the tensor, as the cost of moving its bytes."""
    deep_copy = tf.raw_ops.DeepCopy

    @tf.custom_gradient
    def rotate(x):
        return deep_copy(x=x), lambda gradient: deep_copy(x=gradient)

    return time_rotation(rotate, **options)


def time_rotation(
    rotate: Callable, *, batch, heads, length, head_dim, dtype: str, direction: str, mode: str = "graph"
) -> Work:
    x = tf.cast(tf.random.stateless_normal((batch, heads, length, head_dim), (0, 0)), dtype)

    @tf.function(jit_compile=mode == "xla")
    def rotated(x):
        if direction == "forward":
            return rotate(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = rotate(x)
        return y, tape.gradient(y, x, output_gradients=x)

    def call():
        for _ in range(CALLS):
            result = rotated(x)  # each result reuses the memory of the previous one
        return result

    return Work(call, CALLS)


def text_step(*, batch: int, length: int, precision: str = "auto", mode: str = "auto", **sizes) -> Work:
    """Training step on random bytes."""
    model = language_model(length, precision, **sizes)
    tokens = np.random.default_rng(0).integers(256, size=(batch, length + 1), dtype=np.int32)
    return step_of(model, mode, tokens[:, :-1], tokens[:, 1:])


def language_model(context_length: int, precision: str, *, num_heads: int, **sizes) -> TransformerLM:
    heads = {"num_heads": num_heads, "num_kv_heads": num_heads}
    config = TransformerLMConfig(context_length=context_length, qk_norm=False, **heads, **sizes)
    return TransformerLM(config, dtype=resolve_precision(precision)[0])


def image_step(*, batch: int, grid: int, precision: str = "auto", mode: str = "auto", **sizes) -> Work:
    """Training step on random images of `grid` x `grid` patches."""
    # The constructor calls the model: here on a small image, before the memory is counted.
    small = {"image_size": (2 * PATCH_SIZE,) * 2, "channels": CHANNELS, "num_classes": CLASSES}
    config = AxialViTConfig(patch_size=PATCH_SIZE, **small, **sizes)
    images = tf.random.stateless_normal((batch, grid * PATCH_SIZE, grid * PATCH_SIZE, CHANNELS), (0, 0))
    model = AxialViT(config, dtype=resolve_precision(precision)[0])
    return step_of(model, mode, images, tf.zeros(batch, tf.int32))


def step_of(model: keras.Model, mode: str, inputs, targets) -> Work:
    step = make_train_step(
        model,
        make_optimizer(OPTIMIZER, model.trainable_variables, num_steps=1_000_000),
        TrainingConfig(compile=resolve_compile(mode)[0]),
        clip_norm=OPTIMIZER.clip_norm,
    )
    number, inputs, targets = tf.constant(0), tf.constant(inputs), tf.constant(targets)
    return Work(lambda: float(step(number, inputs, targets).loss))


def generation(*, batch: int, prompt: int, tokens: int, precision: str, **sizes) -> Work:
    """Greedy decoding, one token after the other."""
    sampler = Sampler(language_model(prompt + tokens, precision, **sizes), compile_after=0)
    prompts = np.random.default_rng(0).integers(256, size=(batch, prompt)).tolist()
    return Work(lambda: list(sampler.generate(prompts, tokens, SamplingOptions(temperature=0))), tokens)


def read_weights(*, dim: int, num_layers: int, mlp_dim: int, precision: str, **_) -> Work:
    """Reads the weights of a model once: lower bound of the time of a token by memory bandwidth."""
    count = num_layers * dim * (4 * dim + 3 * mlp_dim) + 256 * dim
    weights = tf.ones(count, precision.removeprefix("mixed_"))
    return Work(lambda: [tf.reduce_max(weights) for _ in range(CALLS)], CALLS)


def command(*, arguments: Sequence[str] = (), until: str | None = None) -> Work:
    """Run of `train.py ARGUMENTS` from its start to its end, or to a line that begins with `until`."""

    def call():
        with tempfile.TemporaryDirectory() as directory:
            words = [sys.executable, "train.py", f"output_dir={directory}", *arguments]
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            with subprocess.Popen(words, cwd=ROOT, **output) as process:
                line = ""
                for line in process.stdout:
                    if until is not None and line.startswith(until):
                        process.kill()
                        return line
        if until is not None or process.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}: {line}")
        return line

    return Work(call)
