"""Conversion of weights between the two pair layouts.

Query and key weights trained in one layout give wrong scores in the other, without an error. Reordering the
features of each head makes the scores equal.
"""

import numpy as np
import tensorflow as tf

from rope.rotation import check_layout


def layout_permutation(
    head_dim: int, *, source: str, target: str, rotary_dim: int | None = None
) -> np.ndarray:
    """(head_dim,) indices of the features in layout `source` that form a head in layout `target`.

    With partial rotation, only the first `rotary_dim` features move.
    """
    check_layout(source)
    check_layout(target)
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise ValueError(f"rotary_dim must be even and in (0, head_dim {head_dim}], got {rotary_dim}.")
    features = np.arange(head_dim)
    if source == target:
        return features
    shape = (-1, 2) if source == "interleaved" else (2, -1)
    rotated = features[:rotary_dim].reshape(shape).T.reshape(-1)
    return np.concatenate([rotated, features[rotary_dim:]])


def convert_layout(
    weights: tf.Tensor | np.ndarray,
    *,
    head_dim: int,
    source: str,
    target: str,
    rotary_dim: int | None = None,
    num_heads: int | None = None,
) -> tf.Tensor | np.ndarray:
    """Reorders the weights of queries or keys from one pair layout to the other.

    Convert the weights of both queries and keys, but not those of values or of the output projection.

    Args:
        weights: a kernel (in, heads * head_dim) or (in, heads, head_dim), a bias (heads * head_dim,) or
            (heads, head_dim), or the gain (head_dim,) of a norm on queries and keys.
        head_dim: features of a head.
        source, target: layouts of `weights` and of the result, which is a NumPy array if `weights` is one.
        rotary_dim: rotated features of a head in a partial rotation; all when not given.
        num_heads: number of leading heads to convert; all when not given. For a fused kernel of queries, keys
            and values, give the number of query and key heads.
    """
    features = weights.shape[-1]
    if features % head_dim:
        raise ValueError(
            f"the last axis of the weights must be a multiple of head_dim {head_dim}, got {features}. "
            "A PyTorch weight is (out, in): transpose it first."
        )
    heads = features // head_dim
    num_heads = heads if num_heads is None else num_heads
    if not 0 < num_heads <= heads:
        raise ValueError(f"num_heads must be in [1, {heads}] for {features} features, got {num_heads}.")
    permutation = layout_permutation(head_dim, source=source, target=target, rotary_dim=rotary_dim)
    index = np.arange(features)
    converted = head_dim * np.arange(num_heads)[:, np.newaxis] + permutation  # (num_heads, head_dim)
    index[: num_heads * head_dim] = converted.reshape(-1)
    if isinstance(weights, np.ndarray):
        return weights[..., index]
    return tf.gather(weights, index, axis=-1)
