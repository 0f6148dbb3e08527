"""Measures what this repository's parts cost: `python -m scripts.benchmark axial`.

axial: time and peak memory of a training step of the vision transformer, by the size of its grid of patches,
for attention over all patches and for attention within rows and columns. Each in a process of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from scripts.evaluate import table
from scripts.failures import exit_code_of
from scripts.startup import import_tensorflow

ROOT = Path(__file__).resolve().parents[1]
CHANNELS, CLASSES, PATCH_SIZE = 3, 10, 4


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if options.attention is not None:
        print(json.dumps(step_cost(options)))
        return
    rows = []
    for grid in options.grids:
        for attention in ("full", "axial"):
            arguments = [*arguments_of(options), "--grids", str(grid), "--attention", attention]
            rows.append(row_of(grid, attention, measured(arguments)))
            print(f"{grid} x {grid} patches, {attention}: {rows[-1]['seconds']:.3f} s", file=sys.stderr)
    print(json.dumps(rows, indent=1) if options.json else f"{machine()}\n{table(rows)}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("axial",))
    parser.add_argument("--grids", type=int, nargs="+", default=[16, 32, 64], help="patches along each side")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5, help="steps, of which the median counts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--attention", choices=("full", "axial"), help=argparse.SUPPRESS)  # of one process
    return parser.parse_args(arguments)


def arguments_of(options: argparse.Namespace) -> list[str]:
    numbers = ("dim", "num_layers", "batch_size", "precision", "repeats")
    flags = ((f"--{name.replace('_', '-')}", str(getattr(options, name))) for name in numbers)
    return [options.what, *(word for flag in flags for word in flag)]


def measured(arguments: list[str]) -> dict:
    command = [sys.executable, "-m", "scripts.benchmark", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row_of(grid: int, attention: str, cost: dict) -> dict:
    """A row of the table; the last column would not change if the time grew as H * W * (H + W)."""
    return {
        "patches": f"{grid}x{grid}",
        "attention": attention,
        "seconds": cost["seconds"],
        "peak_megabytes": round(cost["bytes"] / 1e6),
        "microseconds_per_HW(H+W)": cost["seconds"] * 1e6 / (2 * grid**3),
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

    side = options.grids[0] * PATCH_SIZE
    config = AxialViTConfig(
        patch_size=PATCH_SIZE,
        dim=options.dim,
        num_layers=options.num_layers,
        mlp_dim=3 * options.dim,
        attention=options.attention,
    ).for_images(side, side, channels=CHANNELS, num_classes=CLASSES)
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


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "unknown processor"
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
