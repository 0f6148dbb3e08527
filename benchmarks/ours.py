"""Work of this repository: each function makes a `Work` of sizes, to be timed in a process of its own."""

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.harness import ROOT, UnavailableError, Work, run
from configs.compose import compose
from configs.schema import parse_config
from models.config import AxialViTConfig, TransformerLMConfig
from models.sampling import Sampler, SamplingOptions
from models.transformer import TransformerLM
from models.vit import AxialViT
from rope.embedding import RotaryEmbedding
from runs.devices import import_tensorflow
from runs.load import Task, load_task, make_model
from training.checkpoints import Checkpoints
from training.config import OptimizerConfig
from training.hardware import available_memory, resolve_compile, resolve_precision
from training.optimizer import make_optimizer
from training.step import make_train_step

import_tensorflow()  # has been imported: finds the devices, without its chatter

CALLS, NUM_STEPS = 20, 1_000_000
CHANNELS, CLASSES, PATCH_SIZE = 3, 10, 4


def rotation(*, layout: str, head_dim: int, **options) -> Work:
    rotary = RotaryEmbedding(head_dim, layout=layout)
    return rotation_by(rotary.rotate_queries_or_keys, head_dim=head_dim, **options)


def copy(**options) -> Work:
    """TensorFlow's own copy of the tensor: what moving its bytes costs."""

    def deep_copy(x):
        return tf.raw_ops.DeepCopy(x=x)

    return rotation_by(tf.custom_gradient(lambda x: (deep_copy(x), deep_copy)), **options)


def rotation_by(
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
            result = rotated(x)  # one at a time: the next takes the memory of the one before
        return result

    return Work(call, CALLS)


def text_step(*, batch: int, length: int, precision: str = "auto", mode: str = "auto", **sizes) -> Work:
    """A training step on random bytes."""
    model = language_model(length, precision, **sizes)
    check_memory(model.config, batch * length**2)
    tokens = np.random.default_rng(0).integers(256, size=(batch, length + 1), dtype=np.int32)
    return step_of(model, mode, tokens[:, :-1], tokens[:, 1:])


def language_model(context_length: int, precision: str, *, num_heads: int, **sizes) -> TransformerLM:
    heads = {"num_heads": num_heads, "num_kv_heads": num_heads}
    config = TransformerLMConfig(context_length=context_length, **heads, **sizes)
    return TransformerLM(config, dtype=resolve_precision(precision)[0])


def check_memory(config: TransformerLMConfig, scores: int) -> None:
    """Raises UnavailableError where the scores of full attention would take this machine down."""
    # Kept for each layer, and some at a time.
    needed = 4 * scores * config.num_heads * (config.num_layers + 4)
    if config.attention_kernel == "full" and needed > available_memory():
        raise UnavailableError(f"full attention may need {needed / 1e9:.0f} GB, which are not free")


def image_step(*, batch: int, grid: int, precision: str = "auto", mode: str = "auto", **sizes) -> Work:
    """A training step on random images of `grid` x `grid` patches."""
    images = tf.random.stateless_normal((batch, grid * PATCH_SIZE, grid * PATCH_SIZE, CHANNELS), (0, 0))
    return step_of(vision_model(precision, **sizes), mode, images, tf.zeros(batch, tf.int32))


def vision_model(precision: str, **sizes) -> AxialViT:
    # A model calls itself when it is made: here on a small image, before the memory is counted.
    config = AxialViTConfig(patch_size=PATCH_SIZE, **sizes).for_images(
        2 * PATCH_SIZE, 2 * PATCH_SIZE, channels=CHANNELS, num_classes=CLASSES
    )
    return AxialViT(config, dtype=resolve_precision(precision)[0])


def step_of(model: keras.Model, mode: str, inputs, targets) -> Work:
    step = make_train_step(
        model,
        make_optimizer(OptimizerConfig(), model.trainable_variables, num_steps=NUM_STEPS),
        accumulation_steps=1,
        clip_norm=OptimizerConfig().clip_norm,
        label_smoothing=0.0,
        seed=0,
        compile_mode=resolve_compile(mode)[0],
    )
    number, inputs, targets = tf.constant(0), tf.constant(inputs), tf.constant(targets)
    return Work(lambda: float(step(number, inputs, targets).loss))


def generation(*, batch: int, prompt: int, tokens: int, precision: str, **sizes) -> Work:
    """Greedy tokens of each row, one after the other."""
    sampler = Sampler(language_model(prompt + tokens, precision, **sizes))
    prompts = np.random.default_rng(0).integers(256, size=(batch, prompt)).tolist()
    return Work(lambda: list(sampler.generate(prompts, tokens, SamplingOptions(temperature=0))), tokens)


def weights_read(*, dim: int, num_layers: int, mlp_dim: int, precision: str, **_) -> Work:
    """Reading as many weights once as a token needs: the least that memory lets it take."""
    count = num_layers * dim * (4 * dim + 3 * mlp_dim) + 256 * dim
    weights = tf.ones(count, precision.removeprefix("mixed_"))
    return Work(lambda: [tf.reduce_max(weights) for _ in range(CALLS)], CALLS)


def recipe_step(*, arguments: list[str]) -> Work:
    """A training step of `python train.py ARGUMENTS`."""
    task = recipe(arguments)
    inputs, targets = next(iter(task.training_batches(0)))
    return step_of(make_model(task.config), task.config.compile, inputs, targets)


def recipe_batches(*, arguments: list[str]) -> Work:
    """A batch that such a step takes."""
    batches = iter(recipe(arguments).training_batches(0))
    return Work(lambda: list(itertools.islice(batches, CALLS)), CALLS)


def recipe_checkpoints(*, arguments: list[str]) -> Work:
    """A checkpoint of such a run: weights and optimizer, on disk."""
    task = recipe(arguments)
    model = make_model(task.config)
    optimizer = make_optimizer(task.config.optimizer, model.trainable_variables, num_steps=NUM_STEPS)
    folder, steps = tempfile.TemporaryDirectory(), itertools.count(1)
    return Work(
        lambda: Checkpoints(Path(folder.name), model, optimizer, keep=2).save(next(steps), task.facts)
    )


def recipe(arguments: list[str]) -> Task:
    config = parse_config(compose([*arguments, f"num_steps={NUM_STEPS}"]))
    precision = resolve_precision(config.precision)[0]
    return load_task(replace(config, precision=precision))


def help_text() -> Work:
    return Work(lambda: run("train.py", "--help"))


def speed_run() -> Work:
    """`experiment=shakespeare_speedrun`, from the command to its exit."""

    def call():
        with tempfile.TemporaryDirectory() as directory:
            run("train.py", "experiment=shakespeare_speedrun", f"output_dir={directory}")

    return Work(call)


def first_step(*arguments: str) -> Work:
    """From the command to what it prints of its first step."""

    def call():
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "train.py", f"output_dir={directory}", *arguments]
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            with subprocess.Popen(command, cwd=ROOT, **output) as process:
                line = ""
                for line in process.stdout:
                    if line.startswith("step 1/"):
                        process.kill()
                        return line
                raise RuntimeError(f"{' '.join(command)} ended before its first step: {line}")

    return Work(call)
