"""Parts of the models in NumPy, float64, for the tests that compare a whole model with them."""

from functools import partial

import numpy as np

from tests.rope.reference import turned


def relative_difference(a, b):
    """Largest difference, in standard deviations of `b`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.max(abs(a - b)) / np.std(b)


def randomized(model):
    """The model with large weights, equal in all models that have a weight of that path.

    Initial weights are so small that errors in a layer would hardly change the logits.
    """
    for variable in model.weights:
        random = np.random.default_rng(sum(variable.path.encode()))
        values = random.normal(size=variable.shape)
        if "kernel" in variable.path:
            values *= 1.5 * variable.shape[0] ** -0.5
        elif "scale" in variable.path:
            values = 1 + 0.3 * values
        elif "frequencies" in variable.path:
            values = variable * (1 + 0.2 * random.random(variable.shape))
        elif variable.path.endswith("/embedding/embeddings"):
            values *= 0.3  # tied: with a larger one every token predicts itself
        variable.assign(values)
    return model


def weights_of(model):
    """Weights by their paths in the model."""
    return {w.path.removeprefix(f"{model.name}/"): w.numpy().astype(float) for w in model.weights}


def rms_norm(x, scale, epsilon=1e-5):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon) * scale


def sinusoids(positions, dim):
    """(length, dim) sine at even features, cosine at odd."""
    angles = np.outer(positions, 10_000.0 ** (-np.arange(0, dim, 2) / dim))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(positions), dim)


def attention(config, weights, name, x, angles, bias):
    """(length, dim) output of an attention layer.

    `angles` are (heads, length, head_dim / 2), `bias` is added to the scores of (heads, length, length).
    """
    norm = partial(rms_norm, epsilon=getattr(config, "norm_epsilon", 1e-5))
    kv_heads = getattr(config, "num_kv_heads", config.num_heads)
    qkv = x @ weights[f"{name}/qkv/kernel"] + weights.get(f"{name}/qkv/bias", 0.0)
    heads = qkv.reshape(len(x), -1, config.head_size).swapaxes(0, 1)
    mixed = []
    for head in range(config.num_heads):
        shared = config.num_heads + head * kv_heads // config.num_heads
        query, key, value = heads[head], heads[shared], heads[shared + kv_heads]
        if config.qk_norm:
            query = norm(query, weights[f"{name}/query_norm/scale"])
            key = norm(key, weights[f"{name}/key_norm/scale"])
        query, key = (turned(x, angles[head], config.rope.layout) for x in (query, key))
        shares = np.exp(query @ key.T / np.sqrt(config.head_size) + bias[head])
        mixed.append(shares / shares.sum(-1, keepdims=True) @ value)
    return np.concatenate(mixed, axis=-1) @ weights[f"{name}/output/kernel"]


def feed_forward(weights, name, x):
    gate, up = np.split(x @ weights[f"{name}/gate_and_up/kernel"], 2, axis=-1)
    return (gate / (1 + np.exp(-gate)) * up) @ weights[f"{name}/down/kernel"]
