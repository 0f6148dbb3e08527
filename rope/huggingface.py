"""Rotary embedding of a Hugging Face model, from its `config.json`; imports no TensorFlow."""

from collections.abc import Mapping
from typing import Any

from rope.scaling import parameters, scaling_type, with_original_length

# Model types of transformers 5.24 that rotate adjacent features; the others have the layout `half`.
INTERLEAVED = (
    *("blt", "cohere", "cohere2", "cohere2_moe", "ernie4_5", "ernie4_5_moe", "glm", "glm4", "helium"),
    *("llama4_text", "moonshine", "moonshine_streaming"),
)
NOT_SUPPORTED = {
    "text_config": "pass config['text_config'], the language model inside",
    "qk_rope_head_dim": "multi-head latent attention rotates a vector of its own beside each head",
    "rotary_dim": "whether the pairs are interleaved depends on the model; use RotaryEmbedding(rotary_dim)",
    "rope_local_base_freq": "local and global layers need an embedding each",
    "local_rope_theta": "local and global layers need an embedding each",
}


def rotary_arguments(config: Mapping[str, Any], *, target_length: int | None = None) -> dict[str, Any]:
    """Arguments of the `RotaryEmbedding` that equals the rotary embedding of a Hugging Face model.

    Reads `head_dim`, or `hidden_size` and `num_attention_heads`; `rope_theta` (or `rotary_emb_base`),
    `partial_rotary_factor` (or `rotary_pct`), and `rope_scaling` or else `rope_parameters`, whose values win;
    `max_position_embeddings`, `original_max_position_embeddings` and `model_type`. `target_length` is the
    sequence length for scalings that depend on one; `max_position_embeddings` when not given.

    Raises:
        TypeError: if `config` is not a dict.
        ValueError: if a value is missing, or one embedding cannot express the config.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict, got {type(config).__name__}. Use config.to_dict().")
    for key, reason in NOT_SUPPORTED.items():
        if config.get(key) is not None:
            raise ValueError(f"{key} is not supported: {reason}.")
    if config.get("model_type") == "nanochat":
        raise ValueError("model_type nanochat is not supported: it rotates by the opposite angles.")
    scaling: dict[str, Any] = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    scaling["rope_type"] = scaling.get("rope_type") or scaling.pop("type", "default")
    if nested := [key for key, value in scaling.items() if isinstance(value, Mapping)]:
        raise ValueError(
            f"rope_parameters differ between {', '.join(nested)}: they need an embedding each. For one, pass "
            f"{{**config, 'rope_parameters': config['rope_parameters'][{nested[0]!r}]}}."
        )
    if scaling["rope_type"] == "mrope" or "mrope_section" in scaling:
        raise ValueError("mrope is not supported: its pairs rotate by positions in time, height and width.")
    dim, width, heads = map(config.get, ("head_dim", "hidden_size", "num_attention_heads"))
    if dim is None and width and heads:
        dim = width // heads
    if dim is None:
        raise ValueError("config needs head_dim, or hidden_size and num_attention_heads.")
    theta = scaling.pop("rope_theta", None) or _first(config, "rope_theta", "rotary_emb_base") or 10_000.0
    fraction = _first(config, "partial_rotary_factor", "rotary_pct")
    if fraction is not None:
        scaling.setdefault("partial_rotary_factor", fraction)
    longest = config.get("max_position_embeddings")
    original = _first(config, "original_max_position_embeddings", "max_position_embeddings")
    scaling = with_original_length(scaling, original)
    read = parameters(scaling_type(scaling))
    if "max_position_embeddings" in read and not (scaling.get("factor") or scaling.get("attention_factor")):
        scaling["max_position_embeddings"] = longest
    return {
        "dim": dim,
        "theta": theta,
        "layout": "interleaved" if config.get("model_type") in INTERLEAVED else "half",
        "scaling": None if scaling == {"rope_type": "default"} else scaling,
        "target_length": (target_length or longest) if "target_length" in read else None,
    }


def _first(config: Mapping[str, Any], *keys: str) -> Any:
    """First value that is not null."""
    return next((config[key] for key in keys if config.get(key) is not None), None)
