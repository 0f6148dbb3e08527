"""A training run, from its config to its summary."""

from contextlib import ExitStack
from pathlib import Path

import keras

from configs.compose import save_config
from configs.schema import Config
from runs.checkpointing import make_save, restore, reverting_on_divergence
from runs.devices import find_replicas
from runs.load import make_model
from runs.report import describe, finish
from runs.resolve import Run, resolve
from system.text import print_line
from training.checkpoints import Checkpoints
from training.evaluation import make_evaluator
from training.hardware import make_deterministic
from training.loop import BadSteps, train
from training.optimizer import make_optimizer
from training.run_log import RunDirectory, RunLog
from training.step import make_train_step


def train_run(config: Config) -> int:
    """Trains a new run, or resumes the one in `output_dir/name`, and returns the exit code."""
    replicas = find_replicas(config)
    directory = RunDirectory(Path(config.output_dir) / config.name)
    with replicas.naming_lost_workers(), ExitStack() as stack:
        replicas.from_chief(lambda: stack.enter_context(directory), encode=lambda _: None)
        run = resolve(config, directory, replicas)
        model, optimizer, checkpoints = build(run)
        manifest = replicas.from_chief(lambda: restore(run, model, checkpoints))
        replicas.copy_from_chief(list(checkpoints.variables.values()))
        if replicas.is_chief:
            save_config(run.config, directory.config)
            print_line(f"{describe(run, model)}\n{manifest['origin']}")
        if replicas.any(is_complete(run, manifest["step"])):
            replicas.on_chief(lambda: print_line(f"This run is complete. Its summary: {directory.summary}"))
            return 0
        return train_and_evaluate(run, model, optimizer, checkpoints, manifest)


def build(run: Run) -> tuple[keras.Model, keras.optimizers.Optimizer, Checkpoints]:
    """Model with initial weights, its optimizer, and the checkpoints of both."""
    config = run.config
    if config.deterministic:
        make_deterministic()
    keras.utils.set_random_seed(config.seed)  # for the initial weights; every other draw is stateless
    with run.replicas.scope():
        model = make_model(config)
        optimizer = make_optimizer(config.optimizer, model.trainable_variables, num_steps=config.num_steps)
    checkpoints = Checkpoints(
        run.directory.checkpoints,
        model,
        optimizer,
        keep=config.keep_checkpoints,
        keep_best=config.keep_best,
    )
    return model, optimizer, checkpoints


def is_complete(run: Run, step: int) -> bool:
    return step == run.config.num_steps and run.directory.summary.exists()


def train_and_evaluate(
    run: Run,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    checkpoints: Checkpoints,
    manifest: dict,
) -> int:
    """Runs the steps after the checkpoint of `manifest`, evaluates, and writes the summary."""
    config, task, replicas = run.config, run.task, run.replicas
    rows = replicas.rows(config.batch_size)
    evaluate = make_evaluator(model, task.measure, compile_mode=config.compile, replicas=replicas)
    validation_batches = task.evaluation_batches(config.eval_batches, rows)
    sample = replicas.on_chief(lambda: task.sampler(run.directory, model))
    log = replicas.on_chief(lambda: make_log(run, manifest))
    save = replicas.on_chief(lambda: make_save(run, checkpoints, log))
    with log, replicas.on_chief(lambda: reverting_on_divergence(run, checkpoints)):
        done, stop_code = train(
            make_train_step(
                model,
                optimizer,
                accumulation_steps=config.accumulation_steps,
                clip_norm=config.optimizer.clip_norm,
                label_smoothing=config.label_smoothing,
                seed=config.seed,
                compile_mode=config.compile,
                replicas=replicas,
            ),
            task.training_batches(manifest["step"], rows),
            config=config,
            start_step=manifest["step"],
            bad_steps=BadSteps(config.max_bad_steps, manifest.get("bad_steps")),
            log=log,
            validate=lambda: evaluate(validation_batches),
            sample=sample,
            save=save,
            agree=replicas.largest,
        )
        if stop_code:
            log.say(f"stopped after step {done:,}, saved. The same command resumes from there.")
            replicas.wait()
            return stop_code
        log.say("evaluating on all held-out data")
        measures = evaluate(task.evaluation_batches(None, rows))
        if config.sample_every and task.samples_at_end:
            measures |= sample()
        log.write(done, measures)
    if replicas.is_chief:
        finish(run, model, log.rows[-1])
    replicas.wait()
    return 0


def make_log(run: Run, manifest: dict) -> RunLog:
    return RunLog(
        run.directory,
        start_step=manifest["step"],
        num_steps=run.config.num_steps,
        unit=run.task.unit,
        units_per_step=run.task.units_per_step,
        elapsed_seconds=manifest.get("elapsed_seconds", 0.0),
    )
