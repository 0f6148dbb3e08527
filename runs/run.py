"""A training run, from its config to its summary."""

import json
import math
from contextlib import ExitStack
from pathlib import Path

import keras
import tensorflow as tf

from configs.schema import Config
from models.config import AxialViTConfig, count_weights
from runs.checkpointing import make_save, record, restore, reverting_on_divergence
from runs.load import make_model
from runs.plots import plot_loss
from runs.resolve import Run, resolve
from system.errors import ConfigError
from system.files import has_complete_summary, read_json_lines, write_text
from system.text import format_command, format_count, format_duration, print_line, print_note
from training.checkpoints import Checkpoints
from training.evaluation import make_evaluator
from training.hardware import initialize_devices, physical_memory
from training.loop import NO_BAD_STEPS, STOP_REASONS, train
from training.multi_device import make_replicas
from training.optimizer import make_optimizer
from training.replicas import ONE_DEVICE
from training.run_log import RunDirectory, RunLog
from training.step import make_train_step


def train_run(config: Config) -> int:
    """Trains a new run, or resumes the one in `output_dir/name`, and returns the exit code."""
    if config.distribute.strategy == "none":
        initialize_devices()
        replicas = ONE_DEVICE
    else:
        replicas = make_replicas(config.distribute)
        replicas.check_batch(config.batch_size, config.accumulation_steps)
    directory = RunDirectory(Path(config.output_dir) / config.name)
    with replicas.naming_lost_workers(), ExitStack() as stack:
        replicas.from_chief(lambda: stack.enter_context(directory), encode=lambda _: None)
        run = resolve(config, directory, replicas)
        check_memory(run)
        model, optimizer, checkpoints = build(run)
        manifest = replicas.from_chief(lambda: restore(run, model, checkpoints))
        replicas.copy_from_chief(list(checkpoints.variables.values()))
        if replicas.is_chief and manifest["step"] > 0:  # a new run does so with its first checkpoint
            record(run)
        if replicas.any(manifest["step"] == run.config.num_steps and has_complete_summary(directory.path)):
            replicas.on_chief(lambda: print_line(f"This run is complete. Its summary: {directory.summary}"))
            return 0
        if replicas.is_chief:
            curves = format_command("-m", "tensorboard.main", "--logdir", directory.path)
            print_line(describe(run, model))
            print_line(f"run: {directory.path}, {manifest['origin']}; curves: {curves}")
        return train_and_evaluate(run, model, optimizer, checkpoints, manifest)


def check_memory(run: Run) -> None:
    """Raises ConfigError if weights, optimizer state and a batch exceed the memory; notes half of it."""
    config, memory = run.config, physical_memory()
    weights, copies = count_weights(config.model), 3 if config.optimizer.name == "adamw" else 2
    shape = (2,) if config.context_length else (*config.model.image_size, config.model.channels)
    needed = 4 * (copies * weights + run.units_per_step * math.prod(shape))
    line = (
        f"{weights:,} weights with optimizer state, and batches of {run.units_per_step:,} {run.task.unit}, "
        f"take at least {needed / 1e9:,.1f} GB of the {memory / 1e9:,.1f} GB of memory"
    )
    if needed > memory:
        raise ConfigError(f"{line}: choose a smaller model or batch_size")
    if needed > memory / 2:
        print_note(f"{line}.")


def build(run: Run) -> tuple[keras.Model, keras.Optimizer, Checkpoints]:
    """Model with initial weights, its optimizer, and the checkpoints of both."""
    config = run.config
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()  # raises an error where it is not possible
    keras.utils.set_random_seed(config.seed)  # for the initial weights; every other draw is stateless
    with run.replicas.scope():
        model = make_model(config, run.task.tokenizer)
        optimizer = make_optimizer(config.optimizer, model.trainable_variables, num_steps=config.num_steps)
    checkpoints = Checkpoints(
        run.directory.checkpoints, model, optimizer, keep=config.keep_checkpoints, keep_best=config.keep_best
    )
    return model, optimizer, checkpoints


def train_and_evaluate(
    run: Run, model: keras.Model, optimizer: keras.Optimizer, checkpoints: Checkpoints, manifest: dict
) -> int:
    """Runs the steps after the checkpoint of `manifest`, evaluates, and writes the summary."""
    config, task, replicas = run.config, run.task, run.replicas
    rows = replicas.rows(config.batch_size)
    evaluate = make_evaluator(model, task.measure, compile_mode=config.compile, replicas=replicas)
    validation_batches = task.evaluation_batches(config.eval_batches, rows)
    sample = replicas.on_chief(lambda: task.sampler(run.directory, model))
    log = replicas.on_chief(
        lambda: RunLog(
            run.directory,
            start_step=manifest["step"],
            num_steps=config.num_steps,
            unit=task.unit,
            units_per_step=run.units_per_step,
            elapsed_seconds=manifest.get("elapsed_seconds", 0.0),
        )
    )
    save = replicas.on_chief(lambda: make_save(run, checkpoints, log))
    with log, replicas.on_chief(lambda: reverting_on_divergence(run, checkpoints)):
        done, stop_code = train(
            make_train_step(
                model, optimizer, config, clip_norm=config.optimizer.clip_norm, replicas=replicas
            ),
            task.training_batches(manifest["step"], rows),
            config=config,
            start_step=manifest["step"],
            bad_steps=manifest.get("bad_steps", NO_BAD_STEPS),
            log=log,
            validate=lambda: task.metrics(evaluate(validation_batches)),
            sample=sample,
            save=save,
            agree=replicas.largest,
        )
        if stop_code:
            reason = STOP_REASONS[stop_code]
            log.say(f"stopped after step {done:,} by {reason}, saved; the same command resumes the run")
            replicas.wait()
            return stop_code
        log.say("evaluating on all held-out data")
        batches = task.evaluation_batches(None, rows)
        measures = task.metrics(evaluate(log.progress(batches) if replicas.is_chief else batches))
        if config.sample_every and task.tokenizer is not None:  # images draw theirs in `finish`
            measures |= sample()
        log.write(done, measures)
        if replicas.is_chief:
            finish(run, model, log)
    replicas.wait()
    return 0


def describe(run: Run, model: keras.Model) -> str:
    """The model, the recipe and the data, a line each."""
    config, options = run.config, run.config.model
    if isinstance(options, AxialViTConfig):
        (rows, columns), patch, batch = options.grid, options.patch_size, f"{config.batch_size} images"
        details = [f"{rows}x{columns} patches of {patch}x{patch} pixels", f"{options.attention} attention"]
    else:
        details = [f"context {options.context_length}"]
        batch = f"{config.batch_size} x {config.context_length} tokens"
    details.append(f"position {options.position}")
    defaults = vars(type(options.rope)())
    for key, value in vars(options.rope).items():
        if value != defaults[key]:
            details.append(f"{key} {value.type} {value.set_keys()}" if key == "scaling" else f"{key} {value}")
    if options.learned_rotations != "none":
        details.append(f"{options.learned_rotations} learned rotations")
    warmup = config.optimizer.warmup_steps
    note = " (not reached: every step is warm-up)" if config.num_steps <= warmup else ""
    total, size = config.num_steps * run.units_per_step, run.task.epoch_size
    epochs = f" ({total / size:.2f} epochs)" if size else ""
    layers, heads = format_count(options.num_layers, "layer"), format_count(options.num_heads, "head")
    return (
        f"model: {model.count_params():,} parameters, {layers}, dim {options.dim}, {heads}, "
        f"{', '.join(details)}\n"
        f"recipe: {config.num_steps:,} steps of {batch}, {total:,} in all{epochs}; "
        f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}{note}, seed "
        f"{config.seed}\n{run.task.description}"
    )


def finish(run: Run, model: keras.Model, log: RunLog) -> None:
    """Writes the pictures and summary.json, and prints what was written and a command to try next."""
    task, directory, row = run.task, run.directory, log.rows[-1]
    facts, files = task.finish(directory, model)
    if "sample" in row:
        files.append(directory.samples)
    verdict = task.verdict(row)
    summary = {
        "name": run.config.name,
        **{key: value for key, value in row.items() if key != "sample"},
        "parameters": model.count_params(),
        **facts,
        "precision": run.config.precision,
        "compile": run.config.compile,
        "files": [path.name for path in (directory.loss_plot, *files)],
    }
    with directory.optional(directory.loss_plot):
        title = f"{run.config.name}: {verdict}"
        plot_loss(read_json_lines(directory.metrics), directory.loss_plot, unit=task.unit, title=title)
    log.write_events(row["step"], {path.name: path for path in files})
    log.sync()
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in summary.items())
    write_text(directory.summary, f"{{\n{lines}\n}}\n")  # the last file: it marks the run as complete
    print_line(f"{row[task.unit]:,} {task.unit} in {format_duration(row['elapsed_seconds'])}: {verdict}")
    written = [directory.loss_plot, directory.summary, *files]
    print_line(f"wrote {', '.join(str(path) for path in written if path not in directory.unwritable)}")
    print_line(f"next: {format_command('-m', task.next_script, directory.path)}")
