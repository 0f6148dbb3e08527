"""Trains tiny models and tells what came of it; as a program, on the replicas that its arguments ask for.

python -m tests.replicas FILE KEY=VALUE ...
"""

import json
import sys
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from configs.schema import compose, parse_config
from models.config import AxialViTConfig, TransformerLMConfig
from rope.config import AxialRopeConfig, RopeConfig
from scripts.startup import find_devices

BATCH, LENGTH, PARTS = 8, 6, 2
TEXT = TransformerLMConfig(
    vocab_size=256, context_length=LENGTH, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=12
)
IMAGES = AxialViTConfig(
    image_size=(4, 6), channels=3, num_classes=7, patch_size=2, dim=8, num_layers=1, num_heads=2, mlp_dim=12
)
LEARNED = RopeConfig(learned_freq=True)


@dataclass(frozen=True)
class Case:
    """A model and how it is trained: on 20 batches, unless a few are enough to see whether it works."""

    model: TransformerLMConfig | AxialViTConfig
    num_steps: int = 3
    options: dict = field(default_factory=dict)


CURVES = {"text": Case(replace(TEXT, rope=LEARNED), 20), "images": Case(IMAGES, 20)}
OTHERS = {
    "text dropout": Case(replace(TEXT, dropout=0.2)),
    "text bfloat16": Case(replace(TEXT, position="learned"), options={"precision": "mixed_bfloat16"}),
    "text xla": Case(replace(TEXT, position="sinusoidal"), options={"compile_mode": "xla"}),
    "text alibi": Case(replace(TEXT, position="alibi")),
    "text none": Case(replace(TEXT, position="none")),
    "images mixed": Case(replace(IMAGES, position="mixed", rope=AxialRopeConfig())),
    "images learned": Case(replace(IMAGES, position="learned")),
    "images sinusoidal": Case(replace(IMAGES, position="sinusoidal")),
    "images none": Case(replace(IMAGES, position="none"), options={"precision": "mixed_bfloat16"}),
}


def trained(case: Case, distribution, *, accumulation_steps: int) -> dict:
    """Losses, norms of gradients, measures, weights and the SHA-256 of each row of each batch read here."""
    import keras
    import tensorflow as tf

    from training.config import OptimizerConfig
    from training.evaluation import make_evaluator
    from training.losses import summed_loss_and_accuracy
    from training.optimizer import make_optimizer
    from training.step import make_train_step

    precision = case.options.get("precision", "float32")
    compile_mode = case.options.get("compile_mode", "graph")
    keras.utils.set_random_seed(4)
    with distribution.scope():
        model = make_model(case.model, precision)
        optimizer = make_optimizer(
            OptimizerConfig(learning_rate=1e-2, warmup_steps=2), model.trainable_variables, num_steps=20
        )
    step = make_train_step(
        model,
        optimizer,
        accumulation_steps=accumulation_steps,
        clip_norm=0.3,
        label_smoothing=0.1,
        seed=3,
        compile_mode=compile_mode,
        distribution=distribution,
    )
    rows = distribution.rows(BATCH)
    training, held_out = batches(case.model, num_steps=case.num_steps, rows=rows)
    losses, norms, read = [], [], []
    for number, (inputs, targets) in enumerate(training):
        result = step(tf.constant(number), inputs, targets)
        losses.append(float(result.loss))
        norms.append(float(result.gradient_norm))
        parts = zip(inputs.numpy(), targets.numpy(), strict=True)
        read.append([sha256(x.tobytes() + y.tobytes()).hexdigest() for x, y in parts])
    evaluate = make_evaluator(
        model, summed_loss_and_accuracy, compile_mode="graph", distribution=distribution
    )
    return {
        "losses": losses,
        "norms": norms,
        "read": read,
        "measured": evaluate(held_out),
        "weights": [weight.tolist() for weight in model.get_weights()],
    }


def make_model(config, precision):
    from models.transformer import TransformerLM
    from models.vit import AxialViT

    kind = AxialViT if isinstance(config, AxialViTConfig) else TransformerLM
    return kind(config, dtype=precision)


def batches(config, *, num_steps: int, rows: slice):
    """To train on, and held out: 21 rows, so that the last batch is not full."""
    from data.batches import evaluation_batches, training_dataset
    from data.config import AugmentConfig
    from data.image_batches import image_evaluation_batches, image_training_dataset
    from data.image_store import ImageSplit

    draw = np.random.default_rng(5)
    training = {"start_step": 0, "num_steps": num_steps, "seed": 6}
    if isinstance(config, TransformerLMConfig):
        tokens, held_out = (draw.integers(20, size=size).astype(np.uint8) for size in (300, 21 * LENGTH - 2))
        shape = {"batch_size": BATCH, "length": LENGTH, "rows": rows}
        return training_dataset(tokens, **training, **shape), evaluation_batches(held_out, **shape)
    splits = [
        ImageSplit(
            draw.integers(256, size=(count, *config.image_size, config.channels)).astype(np.uint8),
            draw.integers(config.num_classes, size=count).astype(np.int32),
        )
        for count in (50, 21)
    ]
    shape = {"batch_size": BATCH, "mean": np.full(3, 0.5), "deviation": np.full(3, 0.3), "rows": rows}
    augment = AugmentConfig(rotation=20.0)
    return (
        image_training_dataset(splits[0], augment=augment, **training, **shape),
        image_evaluation_batches(splits[1], **shape),
    )


def agreements(distribution) -> dict:
    """What replicas and workers have in common once they have told each other."""
    import tensorflow as tf

    from training.distribution import all_reduced

    def placed(rows):
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        places = tf.one_hot(number, distribution.num_replicas)[:, tf.newaxis]
        (whole,) = all_reduced([tf.reshape(places * rows, [-1])])
        return whole

    batch = tf.range(1.0, 1 + BATCH)
    told = {"rows": distribution.on_replicas(placed)(batch[distribution.rows(BATCH)]).numpy().tolist()}
    told["from chief"] = distribution.from_chief(lambda: ["ä", distribution.worker])
    told["nobody"] = distribution.any(False)
    told["last"] = distribution.any(distribution.worker == distribution.num_workers - 1)
    told["other data"] = error_of(lambda: distribution.check_same({"data": "ab"[distribution.worker]}))
    told["chief fails"] = error_of(lambda: distribution.from_chief(fail))
    with distribution.scope():
        variable = tf.Variable([1.0, 2.0] if distribution.is_chief else [5.0, 6.0])
    variable.assign([3.0, 4.0] if distribution.is_chief else [7.0, 8.0])
    distribution.copy_from_chief([variable])
    told["copied"] = variable.numpy().tolist()
    return told


def fail():
    raise ValueError("no luck\nat all")


def error_of(function) -> str:
    try:
        function()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main(file: str, *overrides: str) -> None:
    config = parse_config(compose(list(overrides)))
    distribution = find_devices(config)
    cases = CURVES if distribution.num_workers > 1 else CURVES | OTHERS
    steps = config.training.accumulation_steps
    found = {name: trained(case, distribution, accumulation_steps=steps) for name, case in cases.items()}
    Path(file).write_text(json.dumps(found | {"agreements": agreements(distribution)}))
    distribution.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
