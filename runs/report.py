"""Lines printed at the start of a run, and files written at its end."""

import json

import keras

from configs.schema import Config
from runs.plots import plot_loss
from runs.resolve import Run
from system.files import write_text
from system.text import format_duration, print_line
from training.run_log import read_rows

OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def describe(run: Run, model: keras.Model) -> str:
    """The model, the recipe and the data, a line each."""
    config, task = run.config, run.task
    details = task.describe_model()
    if config.model.learned_rotations != "none":
        details.append(f"{config.model.learned_rotations} learned rotations")
    return (
        f"model: {model.count_params():,} parameters, {config.model.num_layers} layers, dim "
        f"{config.model.dim}, {config.model.num_heads} heads, {', '.join(details)}\n"
        f"recipe: {config.num_steps:,} steps of {task.describe_batch()}, "
        f"{config.num_steps * task.units_per_step:,} in all; {OPTIMIZERS[config.optimizer.name]}, learning "
        f"rate {config.optimizer.learning_rate:g}, seed {config.seed}\n"
        f"{task.description}"
    )


def finish(run: Run, model: keras.Model, row: dict) -> None:
    """Writes summary.json and the pictures, and prints what was written and a command to try next.

    Args:
        run: the finished run.
        model: with the final weights.
        row: last row of metrics.jsonl.
    """
    task, directory = run.task, run.directory
    outcome = task.finish(directory, model, row)
    verdict = task.verdict(row)
    write_text(directory.summary, format_summary(summarize(run.config, model, row, outcome.summary)))
    with directory.optional(directory.loss_plot):
        title = f"{run.config.name}: {verdict}"
        plot_loss(read_rows(directory), directory.loss_plot, unit=task.unit, title=title)
    print_line(f"{row[task.unit]:,} {task.unit} in {format_duration(row['elapsed_seconds'])}: {verdict}")
    files = [directory.loss_plot, directory.summary, *outcome.files]
    print_line(f"wrote {', '.join(str(path) for path in files if path not in directory.unwritable)}")
    print_line(f"next: {outcome.next_command}")


def summarize(config: Config, model: keras.Model, row: dict, facts: dict) -> dict:
    """Contents of summary.json."""
    return {
        "name": config.name,
        **{key: value for key, value in row.items() if key != "sample"},
        "parameters": model.count_params(),
        **facts,
        "precision": config.precision,
        "compile": config.compile,
    }


def format_summary(summary: dict) -> str:
    """JSON with one key on each line, and one row of a matrix or table on each line."""
    lines = [f" {json.dumps(key)}: {format_value(value)}" for key, value in summary.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def format_value(value: object) -> str:
    if not (isinstance(value, list) and value and isinstance(value[0], list | dict)):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"
