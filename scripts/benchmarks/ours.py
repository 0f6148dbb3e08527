"""Work of this repository: each function makes a `Work` of sizes, to be timed in a process of its own."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from data.batches import training_dataset
from data.config import AugmentConfig
from data.image_batches import image_training_dataset
from data.image_store import ImageSplit
from models.config import AxialViTConfig, TransformerLMConfig
from models.sampling import Sampler, SamplingOptions
from models.transformer import TransformerLM
from models.vit import AxialViT
from rope.embedding import RotaryEmbedding
from scripts.benchmarks.harness import Work
from scripts.benchmarks.plan import KERNELS
from scripts.startup import import_tensorflow
from training.config import OptimizerConfig
from training.hardware import available_memory, resolve_compile, resolve_precision
from training.optimizer import make_optimizer
from training.step import make_train_step

import_tensorflow()  # has been imported: finds the devices, without its chatter

ROTATIONS, BATCHES, STEPS = 20, 64, 1_000_000
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
    rotate: Callable,
    *,
    batch: int,
    heads: int,
    length: int,
    head_dim: int,
    dtype: str,
    direction: str,
    mode: str = "graph",
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
        for _ in range(ROTATIONS):
            result = rotated(x)
        return result

    return Work(call, ROTATIONS)


def train_step(*, batch: int, length: int, precision: str = "auto", mode: str = "auto", **sizes) -> Work:
    """A step of a language model on random bytes."""
    if not KERNELS:
        sizes.pop("attention_kernel", None)
    config = TransformerLMConfig(context_length=length, **sizes)
    check_memory(config, batch * length**2)
    model = TransformerLM(config, dtype=resolve_precision(precision)[0])
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=(batch, length + 1), dtype=np.int32)
    return step_of(model, mode, tokens[:, :-1], tokens[:, 1:])


def check_memory(config: TransformerLMConfig, scores: int) -> None:
    """Raises MemoryError where the scores of full attention would take this machine down."""
    if getattr(config, "attention_kernel", "full") != "full":
        return
    needed = (
        4 * scores * config.num_heads * (config.num_layers + 4)
    )  # kept for each layer, and some at a time
    if needed > available_memory():
        raise MemoryError(f"full attention may need {needed / 1e9:.0f} GB, which are not free")


def vision_step(*, batch: int, grid: int, precision: str = "auto", mode: str = "auto", **sizes) -> Work:
    """A step of a vision transformer on random images of `grid` x `grid` patches."""
    side = grid * PATCH_SIZE
    # A model calls itself when it is made: here on a small image, before the memory is counted.
    config = AxialViTConfig(patch_size=PATCH_SIZE, **sizes).for_images(
        2 * PATCH_SIZE, 2 * PATCH_SIZE, channels=CHANNELS, num_classes=CLASSES
    )
    model = AxialViT(config, dtype=resolve_precision(precision)[0])
    images = tf.random.stateless_normal((batch, side, side, CHANNELS), (0, 0))
    return step_of(model, mode, images, tf.zeros(batch, tf.int32))


def step_of(model: keras.Model, mode: str, inputs, targets) -> Work:
    step = make_train_step(
        model,
        make_optimizer(OptimizerConfig(), model.trainable_variables, num_steps=STEPS),
        accumulation_steps=1,
        clip_norm=1.0,
        label_smoothing=0.0,
        seed=0,
        compile_mode=resolve_compile(mode, model.dtype_policy.name)[0],
    )
    number, inputs, targets = tf.constant(0), tf.constant(inputs), tf.constant(targets)
    return Work(lambda: float(step(number, inputs, targets).loss))


def generation(*, batch: int, prompt: int, tokens: int, precision: str, **sizes) -> Work:
    """Greedy tokens of each row, one after the other."""
    config = TransformerLMConfig(context_length=prompt + tokens, **sizes)
    sampler = Sampler(TransformerLM(config, dtype=precision))
    prompts = np.random.default_rng(0).integers(config.vocab_size, size=(batch, prompt)).tolist()
    options = SamplingOptions(temperature=0)
    return Work(lambda: list(sampler.generate(prompts, tokens, options)), tokens)


def weights_read(*, dim: int, num_layers: int, mlp_dim: int, precision: str, **_) -> Work:
    """Reading as many weights once as a token needs: the least that memory lets it take."""
    count = num_layers * dim * (4 * dim + 3 * mlp_dim) + TransformerLMConfig().vocab_size * dim
    weights = tf.ones(count, "bfloat16" if precision == "mixed_bfloat16" else precision)

    def call():
        for _ in range(ROTATIONS):
            tf.reduce_max(weights)

    return Work(call, ROTATIONS)


def text_batches(*, batch: int, length: int, **_) -> Work:
    tokens = np.random.default_rng(0).integers(256, size=10_000_000, dtype=np.uint8)
    options = {"start_step": 0, "num_steps": STEPS, "seed": 0}
    return next_of(training_dataset(tokens, batch_size=batch, length=length, **options))


def image_batches(*, batch: int, grid: int, **_) -> Work:
    """Images that are moved at random in every way."""
    generator, side, count = np.random.default_rng(0), grid * PATCH_SIZE, 10_000
    images = generator.integers(256, size=(count, side, side, CHANNELS), dtype=np.uint8)
    dataset = image_training_dataset(
        ImageSplit(images, generator.integers(CLASSES, size=count, dtype=np.int32)),
        start_step=0,
        num_steps=STEPS,
        batch_size=batch,
        seed=0,
        augment=AugmentConfig(rotation=10, scale=0.1, shear=10, shift=0.1, flip=True, fill="reflect"),
        mean=np.full(CHANNELS, 0.5, np.float32),
        deviation=np.full(CHANNELS, 0.25, np.float32),
    )
    return next_of(dataset)


def next_of(dataset: tf.data.Dataset) -> Work:
    batches = iter(dataset)
    return Work(lambda: [next(batches) for _ in range(BATCHES)], BATCHES)
