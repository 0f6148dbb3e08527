"""The only imports of private TensorFlow modules, with a fallback for versions that lack them.

The fallback assumes XLA and a control flow body in every graph, and so uses only operations that work there.
"""

import tensorflow as tf

try:
    from tensorflow.python.ops import control_flow_util, control_flow_v2_func_graphs
except ImportError:
    control_flow_util = control_flow_v2_func_graphs = None


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
    bodies = (
        control_flow_v2_func_graphs.CondBranchFuncGraph,
        control_flow_v2_func_graphs.WhileBodyFuncGraph,
    )
    return isinstance(tf.compat.v1.get_default_graph(), bodies)
