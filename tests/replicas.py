"""Exchange of values between replicas and workers; as a program, writes the results as JSON.

python -m tests.replicas FILE KEY=VALUE ...
"""

import json
import sys
from pathlib import Path

from configs.compose import compose
from configs.schema import parse_config
from runs.run import find_replicas

BATCH = 8


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
    replicas = find_replicas(parse_config(compose(list(overrides))))
    Path(file).write_text(json.dumps(communicate(replicas)))
    replicas.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
