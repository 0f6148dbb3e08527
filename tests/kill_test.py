"""Kills training runs at random moments and compares how they end: `python -m tests.kill_test --kills 50`.

A tiny language model with dropout and accumulation, and a tiny vision transformer with augmentation, are each
trained twice: once without a break, and once killed again and again (SIGKILL), while saving, while training
and while starting, and started again each time. Weights, optimizer state, metrics, TensorBoard's events and
the summary must be the same in the end, bit for bit.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from runs.devices import import_tensorflow
from system.command import run_command
from system.errors import RunError
from training.manifest import directory_name

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "model.dim=32",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.mlp_dim=48",
    "compile=graph",
    "log_every=5",
    "eval_every=24",
    "eval_batches=2",
    "sample_every=48",
    "optimizer.warmup_steps=2",
)
TASKS = {
    "lm": (
        *SMALL,
        "data=text_files",
        f"data.path={ROOT / 'README.md'}",
        "data.held_out=0.2",
        "model.num_kv_heads=1",
        "model.dropout=0.1",
        "context_length=32",
        "batch_size=4",
        "accumulation_steps=2",
    ),
    "vit": (*SMALL, "experiment=vit", "model.drop_path=0.2", "batch_size=16"),
}
CHECKPOINT_EVERY = 4
CHECKPOINTS_PER_KILL = 4
# How long after the moment that was waited for, at most: into a save, into later steps, into a start.
DELAYS = {"while saving": 0.01, "while training": 0.1, "while starting": 3.0}
PATIENCE = 300.0


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    place = Path(tempfile.mkdtemp(prefix="torture-"))
    failed = 0
    for task in options.tasks:
        problems = torture(task, place, kills=options.kills, generator=random.Random(options.seed))
        print(*(f"{task}: {problem}" for problem in problems), sep="\n", end="\n" * bool(problems))
        print(f"{task}: {'not the same' if problems else 'all equal, bit for bit'}", flush=True)
        failed += bool(problems)
    if failed:
        print(f"the runs are in {place}")
        return 1
    shutil.rmtree(place)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_test", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="of each task (default %(default)s)"
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS), help="(default all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default %(default)s)")
    return parser.parse_args(arguments)


def torture(task: str, place: Path, *, kills: int, generator: random.Random) -> list[str]:
    """How the killed run of a task differs from the other one."""
    import_tensorflow()
    from tests.comparison import differences

    num_steps = CHECKPOINT_EVERY * CHECKPOINTS_PER_KILL * (kills + 1)
    places = [f"output_dir={place}", f"data.cache_dir={place / 'cache'}"]
    rhythm = [f"num_steps={num_steps}", f"checkpoint_every={CHECKPOINT_EVERY}"]
    command = train_command(*TASKS[task], *(places if task == "lm" else places[:1]), *rhythm)
    print(f"{task}: {num_steps} steps without a break", flush=True)
    finish([*command, f"name={task}-whole"])
    run = place / f"{task}-killed"
    told = kill_often(
        [*command, f"name={run.name}"], run, kills=kills, num_steps=num_steps, generator=generator
    )
    print(f"{task}: killed " + ", ".join(f"{number} times {when}" for when, number in told.items()))
    finish([*command, f"name={run.name}"])
    return differences(place / f"{task}-whole", run)


def train_command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *overrides]


def finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"exit code {done.returncode} of {' '.join(command)}: {done.stderr.strip()}")


def kill_often(
    command: list[str],
    run: Path,
    *,
    kills: int,
    num_steps: int,
    generator: random.Random,
    checkpoint_every: int = CHECKPOINT_EVERY,
    kinds: Sequence[str] = tuple(DELAYS),
) -> Counter:
    """Starts a command and kills it, again and again, before it reaches `num_steps`.

    Args:
        run: directory of the run of the command.
        checkpoint_every: of the command, in steps.
        kinds: of moments to choose from.

    Returns:
        How many of the kills came when; "while saving" means that a half-written checkpoint was left behind.
    """
    moments = Counter()
    for kills_left in range(kills, 0, -1):
        done = latest_step(run)
        room = (num_steps - done) // checkpoint_every - kills_left
        when = generator.choice(kinds) if room > 0 else "while starting"
        target = done + checkpoint_every * generator.randint(1, max(1, 2 * room // kills_left))
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            if when != "while starting":
                wait_for(run / "checkpoints" / directory_name(target), process, half=when == "while saving")
            time.sleep(generator.uniform(0, DELAYS[when]))
            process.kill()
            errors = process.stderr.read().decode()
        if process.returncode > 0:
            raise RunError(f"exit code {process.returncode} of {' '.join(command)}: {errors.strip()}")
        if process.returncode == 0:
            when = "too late"
        elif any((run / "checkpoints").glob("*.partial")):
            when = "while saving"
        elif when == "while saving":
            when = "while training"
        moments[when] += 1
    return moments


def latest_step(run: Path) -> int:
    """Of its checkpoints; 0 if it has none."""
    names = [path.name for path in (run / "checkpoints").glob("step-????????")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def wait_for(checkpoint: Path, process: subprocess.Popen, *, half: bool) -> None:
    """Until a checkpoint is there, or half of it; or the process has ended."""
    aside = checkpoint.with_name(f"{checkpoint.name}.partial")
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not (checkpoint.exists() or (half and aside.exists())):
        if time.monotonic() > deadline:
            process.kill()
            raise RunError(f"{checkpoint} did not appear within {PATIENCE:.0f} seconds")
        time.sleep(0.0005)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
