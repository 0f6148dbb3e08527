"""Trains a model: `python train.py experiment=lm`; `python train.py --help` shows every key."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from configs.help import help_text
from configs.schema import (
    Config,
    ConfigError,
    compose,
    conflicting_keys,
    differing_keys,
    load_config,
    parse_config,
    save_config,
)
from configs.sweep import sweep
from scripts.failures import INTERRUPTED, exit_code_of
from scripts.startup import import_tensorflow

HELP_FLAGS = {"-h", "--help"}
SWEEP_FLAGS = {"-m", "--multirun"}
# Keys of the model that a run may set otherwise than the run it takes its weights from.
FREE_OF_PARENT = {"context_length", "model.dropout", "model.rope.interpolate_factor"}
SAMPLE_PROMPT_LENGTH, SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 32, 200, 0.8


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
    from models.transformer import TransformerLM
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
    model = TransformerLM(config.model, dtype=options.precision)
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


def settle(config: Config, recorded_path: Path) -> Config:
    """The config with its `auto` values decided, once it agrees with the one that the directory records.

    Raises:
        ConfigError: if the directory is that of another config.
    """
    from training.hardware import resolve_compile, resolve_precision

    asked = config.training
    precision, precision_reason = resolve_precision(asked.precision)
    compile_mode, compile_reason = resolve_compile(asked.compile, precision)
    config = replace(config, training=replace(asked, precision=precision, compile=compile_mode))
    if recorded_path.exists():
        conflicts = conflicting_keys(load_config(recorded_path), config)
        if conflicts:
            changes = "; ".join(f"{key} is {old} there, {new} here" for key, old, new in conflicts)
            raise ConfigError(
                f"{recorded_path.parent} is a run of another config: {changes}. Use name= for another run."
            )
    print(f"precision {precision} ({precision_reason}), compile {compile_mode} ({compile_reason})")
    return config


def description(config: Config, num_parameters: int) -> str:
    """The model and the recipe, in a few lines."""
    model, optimizer, options = config.model, config.optimizer, config.training
    tokens = options.num_steps * options.batch_size * config.context_length
    position = model.position
    if position == "rotary":
        position += f" (theta {model.rope.theta:g}, {model.rope.layout}"
        position += f", interpolate_factor {model.rope.interpolate_factor:g})"
    return (
        f"model: {num_parameters:,} parameters, {model.num_layers} layers, dim {model.dim}, "
        f"{model.num_heads} heads, context {config.context_length}, position {position}\n"
        f"recipe: {options.num_steps:,} steps of {options.batch_size} x {config.context_length} tokens, "
        f"{tokens:,} in all; AdamW, learning rate {optimizer.learning_rate:g}, seed {options.seed}"
    )


def start(config: Config, model, checkpoints, *, fingerprint: str) -> tuple[dict, str]:
    """What is known of the steps already done, and where the weights are from, in words.

    The first that applies: this run, `init_from`, scratch.
    """
    from training.errors import RunError

    manifest = checkpoints.restore_latest()
    if manifest is not None:
        if manifest["data_fingerprint"] != fingerprint:
            raise RunError(
                f"the text has changed since this run began: its SHA-256 was "
                f"{manifest['data_fingerprint'][:12]}, now it is {fingerprint[:12]}. "
                "Use name= for a run on the text of today."
            )
        return manifest, f"resuming after step {manifest['step']:,}"
    new = {"step": 0, "elapsed_seconds": 0.0}
    if config.init_from is None:
        return new, "training from scratch"
    return new, f"starting from step {weights_of_parent(config, model):,} of {config.init_from}"


def weights_of_parent(config: Config, model) -> int:
    """Restores the weights of `init_from`; the parent's step.

    Raises:
        ConfigError: naming each field of the model that differs and may not.
    """
    from training.checkpoints import restore_weights
    from training.errors import RunError

    parent = Path(config.init_from)
    if not (parent / "config.yaml").is_file():
        raise RunError(f"init_from={parent} is not a run directory: it has no config.yaml.")
    differing = [
        f"{key} is {old} there, {new} here"
        for key, old, new in differing_keys(load_config(parent / "config.yaml"), config)
        if key.startswith("model.") and key not in FREE_OF_PARENT
    ]
    if differing:
        raise ConfigError(f"the weights of init_from={parent} are of another model: {'; '.join(differing)}")
    return restore_weights(parent, model)["step"]


def sample_text(sampler, tokens, *, seed: int) -> str:
    """A held-out beginning, continued by the model."""
    from data.tokens import SEPARATOR, VOCAB_SIZE, decode
    from models.sampling import SamplingOptions

    prompt = [int(token) for token in tokens[1 : 1 + min(SAMPLE_PROMPT_LENGTH, sampler.capacity)]]
    options = SamplingOptions(temperature=SAMPLE_TEMPERATURE, seed=seed, stop_token=SEPARATOR)
    steps = sampler.generate([prompt], SAMPLE_LENGTH, options)
    text = decode(prompt + [int(token) for (token,) in steps if 0 <= token < VOCAB_SIZE])
    # An untrained model writes bytes that would move the cursor of a terminal.
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def finish(directory, config: Config, row: dict) -> None:
    """Writes summary.json and loss.png, and says what there is now."""
    from training.plot import plot_loss
    from training.run_log import duration, read_rows, replace_text

    loss = row["validation_loss"]
    summary = {
        "name": config.name,
        **{key: value for key, value in row.items() if key != "sample"},
        "bits_per_byte": loss / math.log(2),
        "precision": config.training.precision,
        "compile": config.training.compile,
    }
    replace_text(directory.summary, json.dumps(summary, indent=1) + "\n")
    plot_loss(
        read_rows(directory), directory.loss_plot, title=f"{config.name}: {loss:.3f} nats per token held out"
    )
    print(
        f"{row['tokens']:,} tokens in {duration(row['elapsed_seconds'])}: "
        f"held-out loss {loss:.4f} nats per token, {summary['bits_per_byte']:.4f} bits per byte"
    )
    print(f"wrote {directory.loss_plot}, {directory.summary}, {directory.samples}")
    print(f'next: python -m scripts.generate {directory.path} --prompt "def "')


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
