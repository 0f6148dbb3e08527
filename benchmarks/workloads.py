"""Workloads of `python -m benchmarks` and their contenders; imports neither TensorFlow nor a peer."""

from collections.abc import Sequence
from itertools import product

from benchmarks.harness import Contender, Workload

DIM_128 = {"dim": 128, "num_layers": 4, "num_heads": 4, "mlp_dim": 384}
DIM_384 = {"dim": 384, "num_layers": 6, "num_heads": 6, "mlp_dim": 1024}
DIM_192 = {"dim": 192, "num_layers": 6, "num_heads": 6, "mlp_dim": 576}
DIM_64 = {"dim": 64, "num_layers": 2, "num_heads": 4, "mlp_dim": 192}
TEXT = {"batch": 16, "length": 256}
PRECISIONS, MODES, TORCH_MODES = ("mixed_bfloat16", "float32"), ("graph", "xla"), ("compiled", "eager")


def by(name: str, make: str, **choices: Sequence) -> list[Contender]:
    """A contender for each combination of the options, which fill in the name; `--quick` takes the first."""
    combinations = (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))
    return [
        Contender(name.format(**options), f"benchmarks.{make}", options, is_quick=number == 0)
        for number, options in enumerate(combinations)
    ]


def rotation(dtype: str, direction: str) -> Workload:
    batch, heads, length, head_dim = 8, 8, 1024, 64
    # The tensor is read and written; backward also its gradient.
    passes = {"forward": 2, "forward+backward": 4}[direction]
    gigabytes = passes * batch * heads * length * head_dim * {"float32": 4, "bfloat16": 2}[dtype] / 1e9
    return Workload(
        f"rotate {batch}x{heads}x{length}x{head_dim} {dtype}, {direction}",
        {"batch": batch, "heads": heads, "length": length, "head_dim": head_dim, "dtype": dtype}
        | {"direction": direction},
        by("ours, {layout}, {mode}", "ours:rotation", layout=("interleaved", "half"), mode=MODES)
        + by("copy by TensorFlow", "ours:copy")
        + by("rotary-embedding-torch, {mode}", "torch_peers:package_rotation", mode=TORCH_MODES)
        + by("torch, half, {mode}", "torch_peers:half_rotation", mode=["compiled"])
        + by("KerasHub, half, {mode}", "keras_peers:rotation", mode=MODES),
        ("gigabytes_per_second", gigabytes),
        seconds=(8, 0.5),
    )


def text_step(sizes: dict, contenders: list[Contender], **options) -> Workload:
    title = "language model of {num_layers} layers, dim {dim}, step of {batch}x{length}".format(**sizes)
    rate = "tokens_per_second", sizes["batch"] * sizes["length"]
    return Workload(title, sizes, contenders, rate, **options)


def image_step(sizes: dict, contenders: list[Contender]) -> Workload:
    title = "vision transformer of {num_layers} layers, dim {dim}, step of {batch}, {grid}x{grid} patches"
    rate = "patches_per_second", sizes["batch"] * sizes["grid"] ** 2
    return Workload(title.format(**sizes), sizes, contenders, rate)


def ours_and_torch(kind: str, torch_modes: Sequence[str]) -> list[Contender]:
    return (
        by("ours", f"ours:{kind}_step")
        + by("ours, {precision}, {mode}", f"ours:{kind}_step", precision=["float32"], mode=MODES)
        + by("torch, {mode}, {precision}", f"torch_peers:{kind}_step", mode=torch_modes, precision=PRECISIONS)
    )


OURS, TORCH, KERAS = "ours:text_step", "torch_peers:text_step", "keras_peers:text_step"
TRAIN_TEXT = (
    ours_and_torch("text", TORCH_MODES)
    + by("Keras fit, defaults", KERAS, precision=["float32"], mode=["auto"])
    + by("Keras fit, {precision}, {mode}", KERAS, precision=PRECISIONS, mode=MODES)
)
ATTENTION = (
    by("ours, auto, {precision}", OURS, precision=PRECISIONS)
    + by("ours, recompute_blocks, {precision}", OURS, recompute_blocks=[True], precision=["mixed_bfloat16"])
    + by("torch, {mode}, {precision}", TORCH, mode=["compiled"], precision=PRECISIONS)
)
FULL = by("ours, full, {precision}", OURS, attention_kernel=["full"], precision=PRECISIONS)
PEERS = "torch_peers:generation"
GENERATE = (
    by("ours, {precision}", "ours:generation", precision=PRECISIONS)
    + by("transformers, {mode}, {precision}", PEERS, mode=TORCH_MODES, precision=PRECISIONS)
    + by("reading the weights, {precision}", "ours:read_weights", precision=PRECISIONS)
)
STARTUP = by("train.py, to its first step", "ours:command", until=["step 1/"]) + by(
    "train.py --help", "ours:command", arguments=[["--help"]]
)
AXIAL = by("full attention", "ours:image_step", attention=["full"]) + by(
    "axial attention", "ours:image_step", attention=["axial"]
)

WORKLOADS = {
    "rope": [
        rotation(dtype, direction)
        for dtype in ("float32", "bfloat16")
        for direction in ("forward", "forward+backward")
    ],
    "train": [
        text_step(TEXT | DIM_128, TRAIN_TEXT),
        text_step(TEXT | DIM_384, TRAIN_TEXT),
        image_step({"batch": 128, "grid": 8} | DIM_192, ours_and_torch("image", ["compiled"])),
    ],
    "attention": [
        text_step({"batch": 1, "length": 1024} | DIM_128, ATTENTION + FULL),
        text_step({"batch": 1, "length": 4096} | DIM_128, ATTENTION + FULL),
        # Full attention would take 34 GB.
        text_step({"batch": 1, "length": 16_384} | DIM_128, ATTENTION, seconds=(40, 10)),
    ],
    "generate": [
        Workload(
            "a token, of 512 after 32, batch 1, 6 layers, dim 384",
            {"batch": 1, "prompt": 32, "tokens": 512} | DIM_384,
            GENERATE,
            ("tokens_per_second", 1),
        )
    ],
    "startup": [Workload("command", {}, STARTUP, None, seconds=(5, 5))],
    "axial": [
        image_step({"batch": 2, "grid": grid, "precision": "float32", "mode": "graph"} | DIM_64, AXIAL)
        for grid in (16, 32, 64)
    ],
}
