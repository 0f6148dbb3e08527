"""A training run, from its configuration to its summary."""

from contextlib import ExitStack
from pathlib import Path

import keras

from configs.schema import Config, save_config
from runs.devices import find_devices
from runs.load import make_model
from runs.report import description, finish
from runs.resolve import load_together, settle_together, start_together
from runs.save import going_back, make_save
from training.checkpoints import Checkpoints
from training.evaluation import make_evaluator
from training.hardware import make_deterministic
from training.loop import BadSteps, train
from training.optimizer import make_optimizer
from training.run_directory import RunDirectory
from training.run_log import RunLog
from training.step import make_train_step


def train_run(config: Config) -> int:
    """One run, from configuration to summary; the exit code."""
    replicas = find_devices(config)

    with replicas.naming_lost_workers(), ExitStack() as stack:
        directory = RunDirectory(Path(config.output_dir) / config.name)
        config, is_recorded = settle_together(config, replicas, directory, stack)
        return run_in(directory, config, replicas, is_recorded=is_recorded)


def run_in(directory, config: Config, replicas, *, is_recorded: bool) -> int:
    """Data, model, loop, summary; the directory is locked by the chief and the config settled."""

    task = load_together(config, replicas, is_recorded=is_recorded)
    config = task.config  # with what the model takes from the data

    if config.deterministic:
        make_deterministic()
    keras.utils.set_random_seed(config.seed)  # of the initial weights; every other draw is stateless
    with replicas.scope():
        model = make_model(config)
        optimizer = make_optimizer(config.optimizer, model.trainable_variables, num_steps=config.num_steps)
    checkpoints = Checkpoints(
        directory.checkpoints, model, optimizer, keep=config.keep_checkpoints, keep_best=config.keep_best
    )
    config, manifest, origin = start_together(replicas, task, model, checkpoints)
    start_step = manifest["step"]
    if replicas.is_chief:
        save_config(config, directory.config)
        print(description(task, model.count_params()))
        print(f"{task.description}\n{origin}", flush=True)

    if replicas.any(start_step == config.num_steps and directory.summary.exists()):
        replicas.on_chief(lambda: print(f"This run is complete. Its summary: {directory.summary}"))
        return 0

    rows = replicas.rows(config.batch_size)
    evaluate = make_evaluator(model, task.measure, compile_mode=config.compile, replicas=replicas)
    some_held_out = task.evaluation_batches(config.eval_batches, rows)
    sample = replicas.on_chief(lambda: task.sampler(directory, model))
    log = replicas.on_chief(
        lambda: RunLog(
            directory,
            start_step=start_step,
            num_steps=config.num_steps,
            unit=task.unit,
            units_per_step=task.units_per_step,
            elapsed_seconds=manifest.get("elapsed_seconds", 0.0),
        )
    )
    save = replicas.on_chief(
        lambda: make_save(task, config, checkpoints, log, replicas=replicas.num_replicas)
    )
    with log, replicas.on_chief(lambda: going_back(config, checkpoints, directory.path)):
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
            task.training_batches(start_step, rows),
            config=config,
            start_step=start_step,
            bad_steps=BadSteps(config.max_bad_steps, manifest.get("bad_steps")),
            log=log,
            validate=lambda: evaluate(some_held_out),
            sample=sample,
            save=save,
            agree=replicas.largest,
        )
        if stop_code:
            log.say(f"stopped after step {done:,}, saved. The same command goes on from there.")
            replicas.wait()
            return stop_code
        log.say(f"measuring all held-out {task.data_word}")
        measured = evaluate(task.evaluation_batches(rows=rows))
        if task.samples_at_end and config.sample_every:
            measured |= sample()
        log.write(done, measured)
    replicas.on_chief(lambda: finish(directory, task, model, log.rows[-1]))
    replicas.wait()
    return 0
