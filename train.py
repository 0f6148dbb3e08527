"""Trains a model: `python train.py experiment=lm`; `python train.py --help` shows every key."""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from configs.help import help_text
from configs.schema import Config, compose, parse_config, save_config
from configs.sweep import sweep
from scripts.failures import INTERRUPTED, exit_code_of
from scripts.startup import import_tensorflow

HELP_FLAGS = {"-h", "--help"}
SWEEP_FLAGS = {"-m", "--multirun"}


def main(arguments: list[str]) -> int | None:
    flags = set(arguments)
    plain = [argument for argument in arguments if argument not in HELP_FLAGS | SWEEP_FLAGS]
    if flags & SWEEP_FLAGS and not flags & HELP_FLAGS:
        return sweep(plain)
    cfg = compose(plain)
    if cfg is not None and flags & HELP_FLAGS:
        print(help_text(OmegaConf.to_container(cfg)))
    elif cfg is not None:
        return run(parse_config(cfg))
    return None


def run(config: Config) -> int:
    """One run, from configuration to summary; the exit code."""
    import_tensorflow()

    from scripts.starting import settle
    from training.run_directory import RunDirectory

    with RunDirectory(Path(config.output_dir) / config.name) as directory:
        config = settle(config, directory.config)
        return run_in(directory, config)


def run_in(directory, config: Config) -> int:
    """Data, model, loop, summary; the directory is locked and the config settled."""
    import keras

    from data.batches import evaluation_batches, training_dataset
    from data.text import check_length, load_text
    from models.sampling import Sampler
    from scripts.loading import make_model
    from scripts.reporting import description, finish, sample_text
    from scripts.starting import start
    from training.checkpoints import Checkpoints
    from training.evaluation import make_evaluator
    from training.loop import train
    from training.optimizer import make_optimizer
    from training.run_log import RunLog
    from training.step import make_train_step

    options = config.training
    shape = {"batch_size": options.batch_size, "length": config.context_length}

    corpus = load_text(config.data)
    check_length(corpus, config.context_length)

    keras.utils.set_random_seed(options.seed)  # of the initial weights; every other draw is stateless
    model = make_model(config)
    optimizer = make_optimizer(config.optimizer, model.trainable_variables, num_steps=options.num_steps)
    checkpoints = Checkpoints(directory.checkpoints, model, optimizer, keep=options.keep_checkpoints)
    manifest, origin = start(config, model, checkpoints, fingerprint=corpus.fingerprint)
    start_step = manifest["step"]
    save_config(config, directory.config)
    print(description(config, model.count_params()))
    print(f"{corpus.description}\n{origin}", flush=True)

    if start_step == options.num_steps and directory.summary.exists():
        print(f"This run is complete. Its summary: {directory.summary}")
        return 0

    evaluate = make_evaluator(model, compile_mode=options.compile)
    eval_subset = evaluation_batches(corpus.validation, **shape, max_batches=options.eval_batches)
    sampler = Sampler(model)
    log = RunLog(
        directory,
        start_step=start_step,
        num_steps=options.num_steps,
        tokens_per_step=options.batch_size * config.context_length,
        elapsed_seconds=manifest["elapsed_seconds"],
    )
    with log:
        done, stopped = train(
            make_train_step(
                model,
                optimizer,
                accumulation_steps=options.accumulation_steps,
                clip_norm=config.optimizer.clip_norm,
                seed=options.seed,
                compile_mode=options.compile,
            ),
            training_dataset(
                corpus.train, start_step=start_step, num_steps=options.num_steps, seed=options.seed, **shape
            ),
            config=options,
            start_step=start_step,
            log=log,
            validate=lambda: evaluate(eval_subset),
            sample=lambda: sample_text(sampler, corpus.validation, seed=options.seed),
            save=lambda step: checkpoints.save(
                step, {"data_fingerprint": corpus.fingerprint, "elapsed_seconds": log.elapsed_seconds}
            ),
        )
        if stopped:
            log.say(f"stopped after step {done:,}, saved. The same command goes on from there.")
            return INTERRUPTED
        log.say(f"measuring the loss on all {len(corpus.validation) - 1:,} held-out tokens")
        log.write(
            done,
            {
                "validation_loss": evaluate(evaluation_batches(corpus.validation, **shape)),
                "sample": sample_text(sampler, corpus.validation, seed=options.seed),
            },
        )
    finish(directory, config, log.rows[-1] | {"parameters": model.count_params()})
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
