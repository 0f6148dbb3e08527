"""What a run says of itself at its start and at its end."""

import itertools
import json
import math
import shlex

from configs.schema import Config
from data.tokens import SEPARATOR, VOCAB_SIZE, decode
from models.sampling import SamplingOptions
from training.plot import plot_loss
from training.run_log import duration, read_rows, replace_text

SAMPLE_PROMPT_LENGTH, SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 32, 200, 0.8


def description(config: Config, num_parameters: int) -> str:
    """The model and the recipe, in a few lines."""
    model, optimizer, options = config.model, config.optimizer, config.training
    tokens = options.num_steps * options.batch_size * config.context_length
    details = [model.position]
    if model.position == "rotary":
        rope = model.rope
        details += [f"theta {rope.theta:g}", rope.layout, f"interpolate_factor {rope.interpolate_factor:g}"]
        if rope.scaling.type != "none":
            details.append(f"{rope.scaling.type} scaling {rope.scaling.given()}")
        details += ["xPos"] * rope.xpos + ["learned frequencies"] * rope.learned_freq
        if rope.rotary_fraction != 1:
            details.append(f"rotary_fraction {rope.rotary_fraction:g}")
    if model.learned_rotations != "none":
        details.append(f"{model.learned_rotations} learned rotations")
    return (
        f"model: {num_parameters:,} parameters, {model.num_layers} layers, dim {model.dim}, "
        f"{model.num_heads} heads, context {config.context_length}, position {', '.join(details)}\n"
        f"recipe: {options.num_steps:,} steps of {options.batch_size} x {config.context_length} tokens, "
        f"{tokens:,} in all; AdamW, learning rate {optimizer.learning_rate:g}, seed {options.seed}"
    )


def sample_text(sampler, tokens, *, seed: int) -> str:
    """A held-out beginning, continued by the model."""
    beginning = tokens[1 : 1 + min(SAMPLE_PROMPT_LENGTH, sampler.capacity)].tolist()
    prompt = list(itertools.takewhile(lambda token: token != SEPARATOR, beginning))
    options = SamplingOptions(temperature=SAMPLE_TEMPERATURE, seed=seed, stop_token=SEPARATOR)
    steps = sampler.generate([prompt], SAMPLE_LENGTH, options)
    text = decode(prompt + [int(token) for (token,) in steps if 0 <= token < VOCAB_SIZE])
    # An untrained model writes bytes that would move the cursor of a terminal.
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def finish(directory, config: Config, row: dict) -> None:
    """Writes summary.json and loss.png, and says what there is now."""
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
    prompt = shlex.quote(next(iter(row["sample"].split()), "The"))
    print(f"next: python -m scripts.generate {directory.path} --prompt {prompt}")
