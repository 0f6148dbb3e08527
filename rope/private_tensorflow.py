"""Properties of the graph that is traced; the only imports of private TensorFlow modules.

The fallback for versions that lack them assumes XLA and a control flow body in every graph, and so uses only
operations that work there.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

try:
    from tensorflow.python.ops import control_flow_util, control_flow_v2_func_graphs
except ImportError:
    control_flow_util = control_flow_v2_func_graphs = None

_plain = contextvars.ContextVar("plain_operations", default=False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Makes functions that are traced inside consist of operations that LiteRT and ONNX know.

    A rotation is then no nested function compiled by XLA. A function that was traced before stays as it is.
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def in_plain_operations() -> bool:
    return _plain.get()


def in_xla() -> bool:
    """Whether the function being traced will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    if control_flow_util is None:
        return True
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def in_control_flow_body() -> bool:
    """Whether the graph being traced is the body of a `tf.cond` or a `tf.while_loop`."""
    if tf.executing_eagerly():
        return False
    if control_flow_v2_func_graphs is None:
        return True
    graphs = control_flow_v2_func_graphs
    bodies = graphs.CondBranchFuncGraph, graphs.WhileBodyFuncGraph
    return isinstance(tf.compat.v1.get_default_graph(), bodies)
