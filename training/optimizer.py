"""The optimizer of a run: AdamW or Muon, with warm-up and cosine decay."""

import keras

from training.adamw import FusedAdamW
from training.config import OptimizerConfig
from training.muon import Muon


def make_optimizer(config: OptimizerConfig, variables: list[keras.Variable], *, num_steps: int) -> FusedAdamW:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) or `Muon`, built for `variables`.

    Weight decay applies to variables of rank 2 and more, not to gains, biases or rotation frequencies; Muon
    to the matrices inside the blocks, not to embeddings or the head.

    Args:
        config: learning rates, warm-up and decay.
        variables: all that is trained.
        num_steps: at which the learning rate has fallen to `final_learning_rate_ratio` of its peak.
    """
    options = {
        "learning_rate": learning_rate_schedule(config, num_steps),
        "weight_decay": config.weight_decay,
        "beta_1": config.beta_1,
        "beta_2": config.beta_2,
        "epsilon": config.epsilon,
        "name": config.name,
    }
    if config.name == "adamw":
        optimizer = FusedAdamW(**options)
    elif config.name == "muon":
        optimizer = Muon(matrices=[v for v in variables if is_hidden_matrix(v)], **options)
    else:
        raise ValueError(f"the optimizer must be adamw or muon, got {config.name!r}.")
    optimizer.exclude_from_weight_decay(var_list=[v for v in variables if not is_decayed(v)])
    optimizer.build(variables)
    return optimizer


def is_decayed(variable: keras.Variable) -> bool:
    return len(variable.shape) >= 2 and "frequencies" not in variable.name


def is_hidden_matrix(variable: keras.Variable) -> bool:
    return len(variable.shape) == 2 and is_decayed(variable) and "/block_" in variable.path


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> keras.optimizers.schedules.CosineDecay:
    """Learning rate of update 0, 1, ...: linear to `learning_rate` at `warmup_steps`, then a cosine."""
    warmup = config.warmup_steps
    return keras.optimizers.schedules.CosineDecay(
        # The first update moves by a step of the warm-up, not by nothing.
        initial_learning_rate=config.learning_rate / (warmup + 1),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=max(1, num_steps - warmup),
        alpha=config.final_learning_rate_ratio,
    )
