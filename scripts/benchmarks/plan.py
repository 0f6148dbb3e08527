"""What is measured: work of given sizes, and who does it; imports neither TensorFlow nor a peer."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints

from models.config import TransformerLMConfig
from scripts.benchmarks.harness import Contender

DIM_128 = {"dim": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "mlp_dim": 384}
DIM_384 = {"dim": 384, "num_layers": 6, "num_heads": 6, "num_kv_heads": 6, "mlp_dim": 1024}
VISION = {"batch": 128, "grid": 8, "dim": 192, "num_layers": 6, "num_heads": 6, "mlp_dim": 576}
AXIAL = {"batch": 2, "dim": 64, "num_layers": 2, "num_heads": 4, "mlp_dim": 192}
QUERIES = {"batch": 8, "heads": 8, "length": 1024, "head_dim": 64}
PRECISIONS, DTYPES, MODES = ("float32", "mixed_bfloat16"), ("float32", "bfloat16"), ("graph", "xla")
# Kinds of attention that the language model has a choice of.
KERNELS = [
    kernel
    for kernel in get_args(get_type_hints(TransformerLMConfig).get("attention_kernel"))
    if kernel != "auto"
]


@dataclass(frozen=True)
class Workload:
    """Work in several sizes that several do.

    title: of one of its sizes, a format string.
    sizes: arguments of all that make the work.
    contenders: the first is what the others are compared with.
    column: a further column of the table, and its value for sizes and seconds.
    """

    title: str
    sizes: Sequence[dict]
    contenders: Sequence[Contender]
    column: tuple[str, Callable[[dict, float], float]]

    @property
    def numbers(self) -> list[str]:
        """Names of the sizes that can be changed."""
        return [name for name, value in self.sizes[0].items() if isinstance(value, int)]

    def cases(self, changes: dict[str, list[int]]) -> Iterator[tuple[str, dict]]:
        """Title and sizes of each work, with every combination of the changes that concern it."""
        titles = set()
        changed = [name for name in changes if name in self.numbers]
        for sizes in self.sizes:
            for values in itertools.product(*(changes[name] for name in changed)):
                case = sizes | dict(zip(changed, values, strict=True))
                if (title := self.title.format(**case)) not in titles:
                    titles.add(title)
                    yield title, case


def every(**choices: Sequence) -> list[dict]:
    """A dict for each combination."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def by(name: str, make: str, **choices: Sequence) -> list[Contender]:
    """A contender for each combination of options, named after them."""
    combinations = every(**choices)
    return [Contender(name.format(**one), f"scripts.benchmarks.{make}", one) for one in combinations]


def tokens_per_second(sizes: dict, seconds: float) -> float:
    """A patch of an image is a token."""
    return sizes["batch"] * (sizes["grid"] ** 2 if "grid" in sizes else sizes["length"]) / seconds


def gigabytes_per_second(sizes: dict, seconds: float) -> float:
    """If the tensor is read and written once, and its gradient too."""
    count = sizes["batch"] * sizes["heads"] * sizes["length"] * sizes["head_dim"]
    passes = 2 if sizes["direction"] == "forward" else 4
    return passes * count * (4 if sizes["dtype"] == "float32" else 2) / 1e9 / seconds


LANGUAGE_MODEL = "language model of {num_layers} layers, dim {dim}, step of {batch}x{length}"
VISION_MODEL = "vision transformer of {num_layers} layers, dim {dim}, step of {batch}, {grid}x{grid} patches"
TOKENS = "tokens_per_second", tokens_per_second
BATCHES = "batches_per_second", lambda sizes, seconds: 1 / seconds
TORCH_STEPS = by("torch compiled, {precision}", "torch_peers:train_step", precision=PRECISIONS)
WORKLOADS = {
    "rope": [
        Workload(
            "rotate {batch}x{heads}x{length}x{head_dim} {dtype}, {direction}",
            [QUERIES | one for one in every(dtype=DTYPES, direction=("forward", "forward+backward"))],
            by("ours, {layout}, {mode}", "ours:rotation", layout=("interleaved", "half"), mode=MODES)
            + by("copy by TensorFlow", "ours:copy")
            + by("rotary-embedding-torch, {mode}", "torch_peers:package_rotation", mode=("eager", "compiled"))
            + by("torch, half, {mode}", "torch_peers:half_rotation", mode=("compiled",))
            + by("KerasHub, half, {mode}", "keras_peers:rotation", mode=MODES),
            ("gigabytes_per_second", gigabytes_per_second),
        )
    ],
    "train": [
        Workload(
            LANGUAGE_MODEL,
            [{"batch": 16, "length": 256} | sizes for sizes in (DIM_128, DIM_384)],
            by("ours", "ours:train_step")
            + by("ours, {precision}, {mode}", "ours:train_step", precision=("float32",), mode=("xla",))
            + TORCH_STEPS
            + by(
                "Keras fit, {precision}, {mode}",
                "keras_peers:fit_step",
                precision=("float32",),
                mode=("auto",),
            )
            + by("Keras fit, {precision}, {mode}", "keras_peers:fit_step", precision=PRECISIONS, mode=MODES),
            TOKENS,
        ),
        Workload(
            VISION_MODEL,
            [VISION],
            by("ours", "ours:vision_step")
            + by("torch compiled, {precision}", "torch_peers:vision_step", precision=PRECISIONS),
            TOKENS,
        ),
    ],
    "attention": [
        Workload(
            LANGUAGE_MODEL,
            [{"batch": 1, "length": length} | DIM_128 for length in (1024, 4096, 16_384)],
            by(
                "ours, {attention_kernel}, {precision}",
                "ours:train_step",
                attention_kernel=KERNELS or ("full",),
                precision=PRECISIONS,
            )
            + TORCH_STEPS,
            TOKENS,
        )
    ],
    "generate": [
        Workload(
            "a token, up to {tokens} after {prompt}, batch {batch}, {num_layers} layers, dim {dim}",
            [{"batch": 1, "prompt": 32, "tokens": 512} | DIM_384],
            by("ours, {precision}", "ours:generation", precision=PRECISIONS)
            + by(
                "transformers, {mode}, {precision}",
                "torch_peers:generation",
                mode=("eager", "compiled"),
                precision=PRECISIONS,
            )
            + by("reading the weights, {precision}", "ours:weights_read", precision=PRECISIONS),
            ("tokens_per_second", lambda sizes, seconds: sizes["batch"] / seconds),
        )
    ],
    "data": [
        Workload(
            "text, {batch}x{length}",
            [{"batch": 16, "length": 256} | DIM_128],
            by("step that takes a batch", "ours:train_step") + by("batch", "ours:text_batches"),
            BATCHES,
        ),
        Workload(
            "augmented images, {batch} with {grid}x{grid} patches",
            [VISION],
            by("step that takes a batch", "ours:vision_step") + by("batch", "ours:image_batches"),
            BATCHES,
        ),
    ],
    "startup": [
        Workload(
            "command",
            [{}],
            by("train.py, to its first step", "commands:first_step")
            + by("train.py --help", "commands:help_text")
            + by("import tensorflow", "commands:tensorflow_import"),
            ("seconds", lambda sizes, seconds: seconds),
        )
    ],
    "axial": [
        Workload(
            "{grid}x{grid} patches, step of {batch}",
            [{"grid": grid} | AXIAL for grid in (16, 32, 64)],
            by(
                "{attention}, {precision}, {mode}",
                "ours:vision_step",
                precision=PRECISIONS,
                attention=("full", "axial"),
                mode=("graph",),
            ),
            # The same for every grid if the time grows as H * W * (H + W).
            ("microseconds_per_HW(H+W)", lambda sizes, seconds: seconds * 1e6 / (2 * sizes["grid"] ** 3)),
        )
    ],
}
