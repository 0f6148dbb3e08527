"""Trains tiny models and tells what came of it; as a program, on the replicas that its arguments ask for.

python -m tests.replicas FILE KEY=VALUE ...
"""

import json
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from configs.schema import compose, parse_config
from models.config import AxialViTConfig, TransformerLMConfig
from rope.config import RopeConfig
from runs.devices import find_devices

BATCH, LENGTH = 8, 6
TEXT = TransformerLMConfig(
    vocab_size=256, context_length=LENGTH, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=12
)
IMAGES = AxialViTConfig(
    image_size=(4, 6), channels=3, num_classes=7, patch_size=2, dim=8, num_layers=1, num_heads=2, mlp_dim=12
)


@dataclass(frozen=True)
class Case:
    """A model and how it is trained: by default on two batches, to see whether it works."""

    model: TransformerLMConfig | AxialViTConfig
    num_steps: int = 2
    accumulation_steps: int = 1
    precision: str = "float32"
    compile_mode: str = "graph"


CURVES = {
    "text": Case(replace(TEXT, rope=RopeConfig(learned_freq=True)), num_steps=20, accumulation_steps=2),
    "images": Case(IMAGES, num_steps=20, accumulation_steps=2),
}
# Each costs seconds to trace, so positions with weights of their own stand for those without.
OF_ONE_MACHINE = CURVES | {
    "text learned dropout": Case(replace(TEXT, position="learned", dropout=0.2)),
    "images mixed bfloat16": Case(replace(IMAGES, position="mixed"), precision="mixed_bfloat16"),
}
OF_SEVERAL = CURVES | {
    "text alibi xla": Case(replace(TEXT, position="alibi"), compile_mode="xla"),
    "images learned bfloat16": Case(replace(IMAGES, position="learned"), precision="mixed_bfloat16"),
}


def trained(case: Case, distribution) -> dict:
    """Losses, norms of gradients, measures, weights and the SHA-256 of each row of each batch read here."""
    import keras
    import tensorflow as tf

    from training.config import OptimizerConfig
    from training.evaluation import make_evaluator
    from training.losses import summed_loss_and_accuracy
    from training.optimizer import make_optimizer
    from training.step import make_train_step

    keras.utils.set_random_seed(4)
    with distribution.scope():
        model = make_model(case.model, case.precision)
        optimizer = make_optimizer(
            OptimizerConfig(learning_rate=1e-2, warmup_steps=2), model.trainable_variables, num_steps=20
        )
    step = make_train_step(
        model,
        optimizer,
        accumulation_steps=case.accumulation_steps,
        clip_norm=0.3,
        label_smoothing=0.1,
        seed=3,
        compile_mode=case.compile_mode,
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
    weights, finite, measured = model.get_weights(), True, {}
    if inputs.dtype.is_floating and distribution.worker == distribution.num_workers - 1:
        inputs = tf.concat([inputs[:-1], np.nan * inputs[-1:]], axis=0)  # of the last replica alone
    if inputs.dtype.is_floating:
        finite = bool(step(tf.constant(case.num_steps), inputs, targets).finite)
    if case.num_steps > 2:
        evaluate = make_evaluator(
            model, summed_loss_and_accuracy, compile_mode="graph", distribution=distribution
        )
        measured = evaluate(held_out)
    return {
        "losses": losses,
        "norms": norms,
        "read": read,
        "measured": measured,
        "weights": [weight.tolist() for weight in weights],
        "is changed by what is not finite": finite or differ(model.get_weights(), weights),
        "copies differ": any(differ(copy, weights) for copy in copies(model, distribution)),
    }


def copies(model, distribution) -> list[list]:
    """The weights of each replica here."""
    if distribution.strategy is None:
        return [model.get_weights()]
    each = [distribution.strategy.experimental_local_results(weight.value) for weight in model.weights]
    return [[weight.numpy() for weight in of_replica] for of_replica in zip(*each, strict=True)]


def differ(a, b) -> bool:
    return any((x != y).any() for x, y in zip(a, b, strict=True))


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
    import keras
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
    told["largest"] = distribution.largest(130 + distribution.worker)
    told["last"] = distribution.any(distribution.worker == distribution.num_workers - 1)
    told["other data"] = error_of(lambda: distribution.check_same({"data": "ab"[distribution.worker]}))
    told["chief fails"] = error_of(lambda: distribution.from_chief(fail))
    with distribution.scope():
        variable = keras.Variable([1.0, 2.0])
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
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it takes the functions of all cases for one that is traced too often
    cases = OF_SEVERAL if distribution.num_workers > 1 else OF_ONE_MACHINE
    found = {name: trained(case, distribution) for name, case in cases.items()}
    Path(file).write_text(json.dumps(found | {"agreements": agreements(distribution)}))
    distribution.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
