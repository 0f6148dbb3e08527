"""Kills training runs at random moments and compares their results: `python -m tests.kill_test --kills 50`.

A tiny language model with dropout and accumulation, and a tiny vision transformer with augmentation, are each
trained twice: once without interruption, and once killed (SIGKILL) and resumed repeatedly, while saving,
while training and while starting. Weights, optimizer variables, metrics, TensorBoard's curves and the summary
must be equal at the end, bit for bit.
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

from system.command import run_command
from system.errors import RunError
from tests.comparison import differences
from training.checkpoints import complete_checkpoints, directory_name, step_of

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
# Maximum seconds between the event that is waited for and the kill.
DELAYS = {"while saving": 0.01, "while training": 0.1, "while starting": 3.0}
TIMEOUT_SECONDS = 300.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_test", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=50, metavar="N", help="kills of each task (default %(default)s)"
    )
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default %(default)s)")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="kill-test-"))
    failed = 0
    for task in options.tasks:
        problems = compare_killed(task, directory, kills=options.kills, generator=random.Random(options.seed))
        for problem in problems:
            print(f"{task}: {problem}")
        print(f"{task}: {'different' if problems else 'all equal, bit for bit'}", flush=True)
        failed += bool(problems)
    if failed:
        print(f"the runs are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


def compare_killed(task: str, directory: Path, *, kills: int, generator: random.Random) -> list[str]:
    """Differences between a killed and an uninterrupted run of a task."""
    num_steps = CHECKPOINT_EVERY * CHECKPOINTS_PER_KILL * (kills + 1)
    cache = [f"data.cache_dir={directory / 'cache'}"] if task == "lm" else []
    steps = [f"num_steps={num_steps}", f"checkpoint_every={CHECKPOINT_EVERY}"]
    command = train_command(*TASKS[task], f"output_dir={directory}", *cache, *steps)
    print(f"{task}: {num_steps} steps without interruption", flush=True)
    finish([*command, f"name={task}-whole"])
    run = directory / f"{task}-killed"
    resume = [*command, f"name={run.name}"]
    moments = kill_often(resume, run, kills=kills, num_steps=num_steps, generator=generator)
    print(f"{task}: killed " + ", ".join(f"{count} times {moment}" for moment, count in moments.items()))
    finish(resume)
    return differences(directory / f"{task}-whole", run)


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
    moments: Sequence[str] = tuple(DELAYS),
) -> Counter:
    """Starts a command and kills it, repeatedly, before it reaches `num_steps`.

    Args:
        run: run directory of the command.
        checkpoint_every: of the command, in steps.
        moments: moments to choose from.

    Returns:
        Number of kills by moment; "while saving" means that the kill left a partial checkpoint.
    """
    counts = Counter()
    for kills_left in range(kills, 0, -1):
        done = latest_step(run)
        room = (num_steps - done) // checkpoint_every - kills_left
        moment = generator.choice(moments) if room > 0 else "while starting"
        target = done + checkpoint_every * generator.randint(1, max(1, 2 * room // kills_left))
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            if moment != "while starting":
                path = run / "checkpoints" / directory_name(target)
                wait_for(path, process, or_partial=moment == "while saving")
            time.sleep(generator.uniform(0, DELAYS[moment]))
            process.kill()
            errors = process.stderr.read().decode()
        if process.returncode > 0:
            raise RunError(f"exit code {process.returncode} of {' '.join(command)}: {errors.strip()}")
        if process.returncode == 0:
            moment = "too late"
        elif any((run / "checkpoints").glob("*.partial")):
            moment = "while saving"
        elif moment == "while saving":
            moment = "while training"
        counts[moment] += 1
    return counts


def latest_step(run: Path) -> int:
    """Step of the latest checkpoint; 0 if there is none."""
    return max(map(step_of, complete_checkpoints(run / "checkpoints")), default=0)


def wait_for(checkpoint: Path, process: subprocess.Popen, *, or_partial: bool) -> None:
    """Waits until a checkpoint, or a part of it, exists or the process has ended."""
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.poll() is None and not (checkpoint.exists() or (or_partial and partial.exists())):
        if time.monotonic() > deadline:
            process.kill()
            raise RunError(f"{checkpoint} did not appear within {TIMEOUT_SECONDS:.0f} seconds")
        time.sleep(0.0005)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
