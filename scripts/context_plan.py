"""What the study of context extension consists of: trainings and evaluations, as commands.

Imports no TensorFlow: each part is a process of its own, so that its memory is returned.
"""

from dataclasses import dataclass
from pathlib import Path

BASE_LENGTH, EXTENDED_LENGTH = 256, 1024  # of experiment=lm and experiment=extend
WINDOWS = (128, 256, 512, 1024, 2048)
STRIDE = WINDOWS[0] // 2  # the default of scripts.evaluate
SCALINGS = ("linear", "ntk", "dynamic", "yarn")
# The base, trained on by as many tokens at its own length: what those alone bring.
CONTROL = "continued"
# Of the same recipe, what makes each fine-tuned variant.
EXTENDED = {
    "direct": ("experiment=extend", "model.rope.interpolate_factor=1"),
    "linear": ("experiment=extend",),
    "ntk": (
        "experiment=extend",
        "model.rope.interpolate_factor=1",
        "model.rope.scaling.type=ntk",
        "model.rope.scaling.factor=4",
    ),
    "yarn": ("experiment=extend_yarn",),
}
CONTINUED = {
    CONTROL: (
        "experiment=extend",
        "model.rope.interpolate_factor=1",
        f"context_length={BASE_LENGTH}",
        f"batch_size={2 * EXTENDED_LENGTH // BASE_LENGTH}",  # of the 2 of experiment=extend
    ),
    **EXTENDED,
}
# A first guess, from two quiet cores; the parts that are done replace it.
SECONDS = {"train": 330, "extend": 90, "evaluate": 90, "zero-shot": 400}


@dataclass(frozen=True)
class Study:
    """What to do; None leaves a value to the recipe.

    Attributes:
        seeds: of the bases, and of what comes of each; the first is that of xPos.
        output_dir: of all runs.
        num_steps: of the bases.
        extend_steps: of the fine-tuned variants.
        targets: about how many bytes an evaluation predicts.
        overrides: of every training.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    output_dir: Path = Path("outputs/context_study")
    num_steps: int | None = None
    extend_steps: int | None = None
    targets: int = 10_240
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One command of the study.

    Attributes:
        name: no other part has it.
        kind: a key of SECONDS; parts of a kind take about as long.
        variant: of the model: base, xpos, or a key of CONTINUED.
        seed: of the run.
        command: what follows `python`.
        result: the file that is there when the command has succeeded.
        reads: the directory of the run that it starts from or measures.
    """

    name: str
    kind: str
    variant: str
    seed: int
    command: tuple[str, ...]
    result: Path
    reads: Path | None = None

    @property
    def is_evaluation(self) -> bool:
        return self.kind in ("evaluate", "zero-shot")


def parts_of(study: Study) -> list[Part]:
    """All parts in an order in which each finds what it needs."""
    parts: list[Part] = []
    for seed in study.seeds:
        parts += [
            trained(study, "base", seed, "experiment=lm"),
            evaluated(study, "base", seed, zero_shot=True),
        ]
        for variant in CONTINUED:
            parts += [extended(study, variant, seed), evaluated(study, variant, seed)]
    seed = study.seeds[0]
    return [
        *parts,
        trained(study, "xpos", seed, "experiment=lm_xpos"),
        evaluated(study, "xpos", seed),
        evaluated(study, "xpos", seed, attention="blockwise-causal"),
        evaluated(study, "base", seed, attention="blockwise-causal"),
    ]


def trained(study: Study, variant: str, seed: int, *recipe: str) -> Part:
    return training(study, "train", variant, seed, *recipe, *steps(study.num_steps))


def extended(study: Study, variant: str, seed: int) -> Part:
    recipe, *changes = CONTINUED[variant]
    base = study.output_dir / f"base-{seed}"
    changes = (f"init_from={base}", *changes, *steps(study.extend_steps))
    return training(study, "extend", variant, seed, recipe, *changes, reads=base)


def training(
    study: Study, kind: str, variant: str, seed: int, recipe: str, *changes: str, reads: Path | None = None
) -> Part:
    name = f"{variant}-{seed}"
    places = (f"name={name}", f"output_dir={study.output_dir}", f"seed={seed}")
    command = ("train.py", recipe, *places, *changes, *study.overrides)
    result = study.output_dir / name / "summary.json"
    return Part(f"train {name}", kind, variant, seed, command, result, reads)


def steps(number: int | None) -> tuple[str, ...]:
    return () if number is None else (f"num_steps={number}",)


def evaluated(
    study: Study, variant: str, seed: int, *, zero_shot: bool = False, attention: str = "full"
) -> Part:
    name, run = f"{variant}-{seed}", study.output_dir / f"{variant}-{seed}"
    options: list[object] = ["--windows", *WINDOWS, "--targets", study.targets]
    if zero_shot:
        options += ["--zero-shot", ",".join(SCALINGS)]
    if attention != "full":
        name += f"-{attention}"
        options += ["--attention", attention, "--plot", run / f"context-{attention}.png"]
    result = records(study) / f"evaluate-{name}.csv"
    command = ("-m", "scripts.evaluate", str(run), *map(str, options), "--csv", str(result))
    kind = "zero-shot" if zero_shot else "evaluate"
    return Part(f"evaluate {name}", kind, variant, seed, command, result, reads=run)


def made_from(run: Path, parts: list[Part]) -> list[Part]:
    """Those that read a run, or a run that started from it, in order."""
    runs, found = {run}, []
    for part in parts:
        if part.reads in runs:
            found.append(part)
            runs.add(part.result.parent)
    return found


def records(study: Study) -> Path:
    """Where the study keeps what it knows of its parts."""
    return study.output_dir / "parts"


def seconds_left(left: list[Part], done: list[tuple[Part, float]]) -> float:
    """Judged by the parts that are done and their seconds: those of the kind, or else all of them."""
    guessed = sum(SECONDS[part.kind] for part, _ in done)
    pace = sum(seconds for _, seconds in done) / guessed if guessed else 1.0
    of_kind = {
        kind: [seconds for part, seconds in done if part.kind == kind] or [pace * guess]
        for kind, guess in SECONDS.items()
    }
    return sum(sum(of_kind[part.kind]) / len(of_kind[part.kind]) for part in left)
