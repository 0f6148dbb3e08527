"""Training of tiny models on one device and on replicas; as a program, writes the results as JSON.

python -m tests.replicas FILE KEY=VALUE ...
"""

import functools
import json
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from configs.compose import compose
from configs.schema import parse_config
from models.config import AxialViTConfig, RopeConfig, TransformerLMConfig
from runs.run import find_replicas

BATCH, LENGTH = 8, 6
TEXT = TransformerLMConfig(
    vocab_size=256, context_length=LENGTH, dim=8, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=12
)
IMAGES = AxialViTConfig(
    image_size=(4, 6), channels=3, num_classes=7, patch_size=2, dim=8, num_layers=1, num_heads=2, mlp_dim=12
)


@dataclass(frozen=True)
class Case:
    """A model and how it is trained."""

    model: TransformerLMConfig | AxialViTConfig
    num_steps: int = 2
    accumulation_steps: int = 1
    precision: str = "float32"
    compile_mode: str = "graph"
    evaluate: bool = False


CURVES = {
    "text": Case(
        replace(TEXT, rope=RopeConfig(learned_freq=True)), num_steps=20, accumulation_steps=2, evaluate=True
    ),
    "images": Case(IMAGES, num_steps=20, accumulation_steps=2, evaluate=True),
}
MIRRORED = CURVES | {
    "text learned dropout": Case(replace(TEXT, position="learned", dropout=0.2)),
    "images mixed bfloat16": Case(replace(IMAGES, position="mixed"), precision="mixed_bfloat16"),
}
WORKERS = CURVES | {
    "text alibi xla": Case(replace(TEXT, position="alibi"), compile_mode="xla"),
    "images learned bfloat16": Case(replace(IMAGES, position="learned"), precision="mixed_bfloat16"),
}


def train(case: Case, replicas) -> dict:
    """Losses, gradient norms, metrics, weights, and the SHA-256 of each row of each batch read here."""
    import keras
    import tensorflow as tf

    from training.config import OptimizerConfig, TrainingConfig
    from training.evaluation import make_evaluator, summed_loss_and_accuracy
    from training.optimizer import make_optimizer
    from training.step import make_train_step

    keras.utils.set_random_seed(4)
    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
    with replicas.scope():
        model = make_model(case.model, case.precision)
        optimizer = make_optimizer(config, model.trainable_variables, num_steps=20)
    options = {"accumulation_steps": case.accumulation_steps, "compile": case.compile_mode}
    step_config = TrainingConfig(label_smoothing=0.1, seed=3, **options)
    step = make_train_step(model, optimizer, step_config, clip_norm=0.3, replicas=replicas)
    batches, held_out = make_batches(case.model, num_steps=case.num_steps, rows=replicas.rows(BATCH))
    losses, norms, row_hashes = [], [], []
    for number, (inputs, targets) in enumerate(batches):
        result = step(tf.constant(number), inputs, targets)
        losses.append(float(result.loss))
        norms.append(float(result.gradient_norm))
        rows = zip(inputs.numpy(), targets.numpy(), strict=True)
        row_hashes.append([sha256(x.tobytes() + y.tobytes()).hexdigest() for x, y in rows])
    weights, is_skipped = model.get_weights(), True
    if inputs.dtype.is_floating:
        if replicas.worker == replicas.num_workers - 1:  # NaN in the last row of the last replica alone
            inputs = tf.concat([inputs[:-1], np.nan * inputs[-1:]], axis=0)
        result = step(tf.constant(case.num_steps), inputs, targets)
        is_skipped = not bool(result.finite) and not differ(model.get_weights(), weights)
    metrics = {}
    if case.evaluate:
        evaluate = make_evaluator(model, summed_loss_and_accuracy, compile_mode="graph", replicas=replicas)
        metrics = evaluate(held_out)
    return {
        "losses": losses,
        "norms": norms,
        "row hashes": row_hashes,
        "metrics": metrics,
        "weights": [weight.tolist() for weight in weights],
        "a step that is not finite is skipped": is_skipped,
        "copies differ": any(differ(copy, weights) for copy in weights_by_replica(model, replicas)),
    }


def weights_by_replica(model, replicas) -> list[list]:
    """Weights of each replica of this process."""
    if replicas.strategy is None:
        return [model.get_weights()]
    copies = [replicas.strategy.experimental_local_results(weight.value) for weight in model.weights]
    return [[weight.numpy() for weight in replica] for replica in zip(*copies, strict=True)]


def differ(a, b) -> bool:
    return any((x != y).any() for x, y in zip(a, b, strict=True))


def make_model(config, precision):
    from models.transformer import TransformerLM
    from models.vit import AxialViT

    kind = AxialViT if isinstance(config, AxialViTConfig) else TransformerLM
    return kind(config, dtype=precision)


def make_batches(config, *, num_steps: int, rows: slice):
    """Training batches, and held-out ones of 21 rows in all, so that the last is partly filled."""
    from data.batches import (
        EvaluationBatches,
        batch_dataset,
        evaluation_windows,
        training_batch,
    )
    from data.config import AugmentConfig
    from data.image_batches import image_training_dataset, normalize
    from data.images import ImageSplit

    draw = np.random.default_rng(5)
    steps = {"start_step": 0, "num_steps": num_steps}
    if isinstance(config, TransformerLMConfig):
        tokens, held_out = (draw.integers(20, size=size).astype(np.uint8) for size in (300, 21 * LENGTH - 2))
        shape = {"batch_size": BATCH, "rows": rows}
        batch = functools.partial(training_batch, tokens, length=LENGTH, seed=6, **shape)
        load = functools.partial(evaluation_windows, held_out, length=LENGTH)
        return batch_dataset(batch, **steps), EvaluationBatches(21, load, **shape)
    splits = [
        ImageSplit(
            draw.integers(256, size=(count, *config.image_size, config.channels)).astype(np.uint8),
            draw.integers(config.num_classes, size=count).astype(np.int32),
        )
        for count in (50, 21)
    ]
    train, held_out = splits
    shape = {"batch_size": BATCH, "rows": rows}
    moments = {"mean": np.full(3, 0.5), "deviation": np.full(3, 0.3)}
    return (
        image_training_dataset(
            train, augment=AugmentConfig(rotation=20.0), seed=6, **moments, **steps, **shape
        ),
        EvaluationBatches(
            21, lambda items: (normalize(held_out.images[items], **moments), held_out.labels[items]), **shape
        ),
    )


def communicate(replicas) -> dict:
    """Results of the methods with which replicas and workers exchange values."""
    import keras

    with replicas.scope():
        variable = keras.Variable([1.0, 2.0])
    variable.assign([3.0, 4.0] if replicas.is_chief else [7.0, 8.0])
    replicas.copy_from_chief([variable])
    return {
        "rows": gather_rows(replicas),
        "from chief": replicas.from_chief(
            lambda: ("ä", replicas.worker), encode=list, decode=lambda value: [*value, "decoded"]
        ),
        "on chief": replicas.on_chief(lambda: dict)() == {},
        "any of none": replicas.any(False),
        "any of the last": replicas.any(replicas.worker == replicas.num_workers - 1),
        "largest": replicas.largest(130 + replicas.worker),
        "different data": error_message(lambda: replicas.check_same({"data": "ab"[replicas.worker]})),
        "failure of the chief": error_message(lambda: replicas.from_chief(fail)),
        "copied": variable.numpy().tolist(),
    }


def gather_rows(replicas) -> list[float]:
    """The rows 1 to 8 of a batch, in the order in which the replicas receive them."""
    import tensorflow as tf

    from training.replicas import all_reduced

    def place(rows):
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        places = tf.one_hot(number, replicas.num_replicas)[:, tf.newaxis]
        return all_reduced([tf.reshape(places * rows, [-1])])[0]

    batch = tf.range(1.0, 1 + BATCH)
    return replicas.compile(place)(batch[replicas.rows(BATCH)]).numpy().tolist()


def fail():
    raise ValueError("no luck\nat all")


def error_message(function) -> str:
    try:
        function()
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def main(file: str, *overrides: str) -> None:
    config = parse_config(compose(list(overrides)))
    replicas = find_replicas(config)
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it takes the functions of all cases for one that is retraced
    cases = WORKERS if replicas.num_workers > 1 else MIRRORED
    results = {name: train(case, replicas) for name, case in cases.items()}
    Path(file).write_text(json.dumps(results | {"communication": communicate(replicas)}))
    replicas.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
