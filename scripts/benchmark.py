"""Measures what this repository's parts cost: `python -m scripts.benchmark axial`.

axial: time and peak memory of a training step of the vision transformer, by the size of its grid of patches,
for attention over all patches and for attention within rows and columns. Each in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from scripts.context_options import tokens
from scripts.evaluate import cell, table
from scripts.failures import exit_code_of
from scripts.machine import machine
from scripts.startup import import_tensorflow

ROOT = Path(__file__).resolve().parents[1]
CHANNELS, CLASSES, PATCH_SIZE = 3, 10, 4
FAILED = "failed"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.attention is not None:
        print(json.dumps(step_cost(options)))
        return 0
    rows = []
    for grid in options.grids:
        for attention in ("full", "axial"):
            arguments = [*arguments_of(options), "--grids", str(grid), "--attention", attention]
            rows.append(row_of(grid, attention, measured(arguments)))
            print(f"{grid} x {grid} patches, {attention}: {cell(rows[-1]['seconds'])} s", file=sys.stderr)
    print(json.dumps(rows, indent=1) if options.json else f"{machine()}\n{table(rows)}")
    return int(any(row["seconds"] == FAILED for row in rows))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("axial",))
    parser.add_argument(
        "--grids", type=tokens, nargs="+", default=[16, 32, 64], help="patches along each side"
    )
    parser.add_argument("--dim", type=tokens, default=64)
    parser.add_argument("--num-layers", type=tokens, default=2)
    parser.add_argument("--batch-size", type=tokens, default=2)
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--repeats", type=tokens, default=5, help="steps, of which the median counts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--attention", choices=("full", "axial"), help=argparse.SUPPRESS)  # of one process
    return parser.parse_args(arguments)


def arguments_of(options: argparse.Namespace) -> list[str]:
    numbers = ("dim", "num_layers", "batch_size", "precision", "repeats")
    flags = ((f"--{name.replace('_', '-')}", str(getattr(options, name))) for name in numbers)
    return [options.what, *(word for flag in flags for word in flag)]


def measured(arguments: list[str]) -> dict | None:
    """The cost that a process tells; None if it fails, or is killed for its memory."""
    command = [sys.executable, "-m", "scripts.benchmark", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def row_of(grid: int, attention: str, cost: dict | None) -> dict:
    """A row of the table; the last column would not change if the time grew as H * W * (H + W)."""
    return {
        "patches": f"{grid}x{grid}",
        "attention": attention,
        "seconds": cost["seconds"] if cost else FAILED,
        "peak_megabytes": round(cost["bytes"] / 1e6) if cost else None,
        "microseconds_per_HW(H+W)": cost["seconds"] * 1e6 / (2 * grid**3) if cost else None,
    }


def step_cost(options: argparse.Namespace) -> dict:
    """Median seconds of a training step, and by how many bytes the process grew for it."""
    import_tensorflow()
    import tensorflow as tf

    from models.config import AxialViTConfig
    from models.vit import AxialViT
    from training.config import OptimizerConfig
    from training.optimizer import make_optimizer
    from training.step import make_train_step

    config = AxialViTConfig(
        patch_size=PATCH_SIZE,
        dim=options.dim,
        num_layers=options.num_layers,
        mlp_dim=3 * options.dim,
        attention=options.attention,
    ).for_images(2 * PATCH_SIZE, 2 * PATCH_SIZE, channels=CHANNELS, num_classes=CLASSES)
    # A model calls itself when it is made: here on a small image, before the memory is counted.
    model = AxialViT(config, dtype=options.precision)
    optimizer = make_optimizer(OptimizerConfig(), model.trainable_variables, num_steps=options.repeats + 1)
    step = make_train_step(
        model,
        optimizer,
        accumulation_steps=1,
        clip_norm=1.0,
        label_smoothing=0.0,
        seed=0,
        compile_mode="graph",
    )
    side = options.grids[0] * PATCH_SIZE
    images = tf.random.stateless_normal((options.batch_size, side, side, CHANNELS), (0, 0))
    labels = tf.zeros(options.batch_size, tf.int32)
    before = peak_bytes()
    seconds = []
    for number in range(options.repeats + 1):
        started = time.perf_counter()
        float(step(tf.constant(number), images, labels).loss)
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[1:]), "bytes": peak_bytes() - before}


def peak_bytes() -> int:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
