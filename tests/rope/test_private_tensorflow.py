import numpy as np
import pytest
import tensorflow as tf

from rope import private_tensorflow
from rope.private_tensorflow import in_control_flow_body, in_xla
from rope.rotation import compute_cos_sin, rotary_angles, rotate


def test_xla_and_control_flow_bodies_are_detected():
    found = {}

    def record(name):
        found[name] = in_xla(), in_control_flow_body()
        return tf.constant(0)

    record("eager")
    tf.function(record)("graph")
    tf.function(record, jit_compile=True)("xla")
    tf.function(lambda x: tf.cond(x > 0, lambda: record("branch"), lambda: 1))(tf.constant(1))
    expected = {
        "eager": (False, False),
        "graph": (False, False),
        "xla": (True, False),
        "branch": (False, True),
    }
    assert found == expected


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_rotation_without_the_private_modules_is_the_same(layout, monkeypatch):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 5, 8)), tf.float32)
    cos_sin = compute_cos_sin(rotary_angles(tf.range(5), [1.0, 0.5, 0.2, 0.1]))
    expected = rotate(x, cos_sin, layout=layout)
    monkeypatch.setattr(private_tensorflow, "control_flow_util", None)
    monkeypatch.setattr(private_tensorflow, "control_flow_v2_func_graphs", None)
    rotated = tf.function(lambda x: rotate(x, cos_sin, layout=layout))(x)
    np.testing.assert_allclose(rotated, expected, atol=1e-6)  # float32
