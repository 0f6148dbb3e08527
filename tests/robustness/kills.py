"""Kills training runs at random moments and compares their results: `python -m tests.robustness.kills`.

A tiny language model with dropout and accumulation, and a tiny vision transformer on image files, are
each trained twice: without interruption, and killed repeatedly, by SIGKILL, SIGTERM or SIGHUP, while
starting, reading data into an empty cache, training, saving and drawing. At the end weights, optimizer
variables, metrics, curves, samples, pictures and the summary must be equal, bit for bit, no file
may be empty, and no part of a cache left. 50 kills take about ten minutes.
"""

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from system.command import run_command
from system.errors import RunError
from tests.comparison import differences
from tests.robustness.fuzz import prepare_data
from training.checkpoints import complete_checkpoints, directory_name, step_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = "model.dim=32 model.num_layers=1 model.num_heads=2 model.mlp_dim=48 compile=graph log_every=5"
SMALL += " eval_every=24 eval_batches=2 sample_every=48 optimizer.warmup_steps=2"
TASKS = {
    "lm": f"{SMALL} data=text_files data.path=text data.held_out=0.2 context_length=32 batch_size=4"
    " accumulation_steps=2 model.num_kv_heads=1 model.dropout=0.1",
    "vit": f"{SMALL} experiment=vit data=image_folder data.path=images data.image_size=[16,16] batch_size=16"
    " model.patch_size=4 model.drop_path=0.2",
}
CHECKPOINT_EVERY = {"lm": 1, "vit": 2}
CHECKPOINTS_PER_KILL = 8
# Maximum seconds between the event that is waited for and the kill.
DELAYS = {"while saving": 0.01, "while training": 0.1, "while starting": 5.0, "while reading data": 0.05}
MOMENTS = list(DELAYS)
DELAYS["while drawing"] = 2.0  # after the last checkpoint
SIGNALS = (*[signal.SIGKILL] * 8, signal.SIGTERM, signal.SIGHUP)
TIMEOUT_SECONDS = 300.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="kills in all (default %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default %(default)s)")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="kills-"))
    prepare_data(directory, count=40)
    failed = 0
    for number, task in enumerate(options.tasks):
        kills = (options.count + number) // len(options.tasks)
        problems = compare_killed(task, directory, kills=kills, generator=random.Random(options.seed))
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
    """Differences between a killed and an uninterrupted run of a task, and what the killed one has left."""
    every = CHECKPOINT_EVERY[task]
    num_steps = every * CHECKPOINTS_PER_KILL * (kills + 1)
    steps = (f"num_steps={num_steps}", f"checkpoint_every={every}", f"name={task}")
    words = [word.replace(".path=", f".path={directory}/") for word in TASKS[task].split()]
    commands = [
        [sys.executable, str(ROOT / "train.py"), *words, *steps]
        + [f"output_dir={directory / name}", f"data.cache_dir={directory / name}-cache"]
        for name in ("whole", "killed")
    ]
    print(f"{task}: {num_steps} steps without interruption", flush=True)
    finish(commands[0])
    run, cache = directory / "killed" / task, directory / "killed-cache"
    counts = kill_often(
        commands[1], run, cache, kills=kills, num_steps=num_steps, every=every, generator=generator
    )
    print(f"{task}: killed " + ", ".join(f"{count} times {moment}" for moment, count in counts.items()))
    finish(commands[1])
    left = [*empty_files(run), *empty_files(cache), *run.rglob("*.partial"), *cache.glob(".*.partial")]
    return [*differences(directory / "whole" / task, run), *(f"left: {path}" for path in left)]


def empty_files(folder: Path) -> list[Path]:
    """Files without content below `folder`, except locks, and those that are written row by row."""
    exempt = re.compile(r"\.lock$|^metrics\.jsonl$|tfevents")
    files = (path for path in folder.rglob("*") if path.is_file() and not exempt.search(path.name))
    return [path for path in files if path.stat().st_size == 0]


def finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"exit code {done.returncode} of {' '.join(command)}: {done.stderr.strip()}")


def kill_often(
    command: list[str],
    run: Path,
    cache: Path,
    *,
    kills: int,
    num_steps: int,
    every: int,
    generator: random.Random,
) -> Counter:
    """Starts a command and kills it, repeatedly, before it ends; the last eighth of the kills while drawing.

    Args:
        run: run directory of the command.
        cache: its cache, which is emptied before a kill while reading data.
        every: steps between its checkpoints.

    Returns:
        Number of kills by moment; "while saving" means that the kill left a partial checkpoint.
    """
    counts = Counter()
    for kills_left in range(kills, 0, -1):
        done = latest_step(run)
        room = (num_steps - done) // every - kills_left
        moment = generator.choice(MOMENTS) if room > 0 else "while starting"
        target = done + every * generator.randint(1, max(1, 2 * room // kills_left))
        if room > 0 and kills_left <= kills // 8:
            target, moment = num_steps, "while drawing"
        if moment == "while reading data":
            shutil.rmtree(cache, ignore_errors=True)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            if moment == "while reading data":
                wait_for(process, lambda: any(cache.glob(".*.partial")))
            elif moment != "while starting":
                path = run / "checkpoints" / directory_name(min(target, num_steps))
                either = [path, path.with_name(f".{path.name}.partial")][: 1 + (moment == "while saving")]
                wait_for(process, lambda either=either: any(path.exists() for path in either))
            time.sleep(generator.uniform(0, DELAYS[moment]))
            number = generator.choice(SIGNALS)
            process.send_signal(number)
            errors = process.stderr.read().decode()
        if process.returncode > 0 and process.returncode != 128 + number:
            raise RunError(f"exit code {process.returncode} of {' '.join(command)}: {errors.strip()}")
        if process.returncode == 0:
            moment = "too late"
        elif any((run / "checkpoints").glob("*.partial")):
            moment = "while saving"
        elif moment == "while saving":
            moment = "while training"
        elif latest_step(run) == num_steps:
            moment = "while drawing"
        counts[moment] += 1
        print(f"{run.name}: kill {counts.total()} of {kills} {moment}", flush=True)
        if empty := empty_files(run):
            raise RunError(f"empty after a kill {moment}: {', '.join(map(str, empty))}")
    return counts


def latest_step(run: Path) -> int:
    """Step of the latest checkpoint; 0 if there is none."""
    return max(map(step_of, complete_checkpoints(run / "checkpoints")), default=0)


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Waits until the condition holds or the process has ended."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.poll() is None and not condition():
        if time.monotonic() > deadline:
            process.kill()
            raise RunError(f"nothing happened within {TIMEOUT_SECONDS:.0f} seconds")
        time.sleep(0.0005)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
