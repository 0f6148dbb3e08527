"""What a run says of itself at its start and at its end."""

import json

import keras

from configs.schema import Config
from runs.load import Task
from runs.plots import plot_loss
from system.files import write_text
from system.text import format_duration
from training.run_log import read_rows

OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def description(task: Task, num_parameters: int) -> str:
    """The model and the recipe, in a few lines."""
    config: Config = task.config
    model, optimizer = config.model, config.optimizer
    details = task.describe_model()
    if model.learned_rotations != "none":
        details.append(f"{model.learned_rotations} learned rotations")
    return (
        f"model: {num_parameters:,} parameters, {model.num_layers} layers, dim {model.dim}, "
        f"{model.num_heads} heads, {', '.join(details)}\n"
        f"recipe: {config.num_steps:,} steps of {task.describe_batch()}, "
        f"{config.num_steps * task.units_per_step:,} in all; {OPTIMIZERS[optimizer.name]}, learning rate "
        f"{optimizer.learning_rate:g}, seed {config.seed}"
    )


def finish(directory, task: Task, model: keras.Model, row: dict) -> None:
    """Writes summary.json and the pictures, and says what there is now."""
    config = task.config
    summary = {
        "name": config.name,
        **{key: value for key, value in row.items() if key != "sample"},
        "parameters": model.count_params(),
        **task.finish(directory, model, row),
        "precision": config.precision,
        "compile": config.compile,
    }
    write_text(directory.summary, as_json(summary))
    verdict = task.verdict(row)
    with directory.optional(directory.loss_plot):
        title = f"{config.name}: {verdict}"
        plot_loss(read_rows(directory), directory.loss_plot, unit=task.unit, title=title)
    print(f"{row[task.unit]:,} {task.unit} in {format_duration(row['elapsed_seconds'])}: {verdict}")
    shown, next_command = task.show(directory, row)
    written = [directory.loss_plot, directory.summary, *shown]
    print(f"wrote {', '.join(str(path) for path in written if path not in directory.unwritable)}")
    print(f"next: {next_command}")


def as_json(summary: dict) -> str:
    """One key a line, and one row a line of a matrix or a table."""
    lines = [f" {json.dumps(key)}: {value_as_json(value)}" for key, value in summary.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def value_as_json(value: object) -> str:
    if not (isinstance(value, list) and value and isinstance(value[0], list | dict)):
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"
