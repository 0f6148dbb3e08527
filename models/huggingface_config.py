"""`config.json` of Hugging Face transformers for the Llama family: reading and writing."""

import re
from collections.abc import Mapping
from typing import Any

from models.config import RopeConfig, RopeScalingConfig, TransformerLMConfig
from rope.huggingface import rotary_arguments
from rope.scaling import scaling_type
from rope.schemes import rescaled_theta
from system.errors import RunError

ARCHITECTURES = {  # by model_type
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Values of transformers 5.24 for missing keys. Those of null: all heads, and no window.
DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False}
FAMILY_DEFAULTS = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4_096},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
KEYS = {  # by the option of the same meaning
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "mlp_dim": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
}
ONLY = {  # keys that are read, and select another model unless they have this value
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0,
    "rope_interleaved": False,
    "use_mrope": False,
    "is_encoder_decoder": False,
    "chunk_size_feed_forward": 0,
}
# Other keys that are read, then those without an effect on the logits.
KNOWN = re.compile(
    "model_type|architectures|head_dim|(use_)?sliding_window|layer_types|rope_(theta|scaling|parameters)|"
    "original_max_position_embeddings|partial_rotary_factor|"
    r"_.*|max_(sequence_)?length|(bos|eos|pad|unk)_token_id|(torch_)?dtype|transformers_version|use_cache|"
    r"transformers\.js_config|initializer_range|pretraining_tp|is_llama_config|max_window_layers|"
    "tokenizer_class|torchscript|id2label|label2id|problem_type|output_.*|return_dict|task_specific_params|"
    "unsloth_.*"
)


def model_config(values: Mapping[str, Any], *, layout: str = "half") -> TransformerLMConfig:
    """Options of the model of a `config.json`; raises an error for a key that is not supported."""
    family = values.get("model_type")
    architecture = (values.get("architectures") or [ARCHITECTURES.get(family, family)])[0]
    if family not in ARCHITECTURES or architecture != ARCHITECTURES[family]:
        known = ", ".join(ARCHITECTURES.values())
        raise ValueError(f"{architecture} (model_type {family}) is not supported, only {known}")
    values = DEFAULTS | FAMILY_DEFAULTS.get(family, {}) | values
    values = {key: value for key, value in values.items() if value is not None}
    check_keys(values)
    values.setdefault("num_key_value_heads", values.get("num_attention_heads"))
    if missing := [key for key in KEYS.values() if values.get(key) is None]:
        raise ValueError(f"{', '.join(missing)} missing")
    options = {option: values[key] for option, key in KEYS.items()}
    length, window = options["context_length"], values.get("sliding_window", options["context_length"])
    if (family == "mistral" or values.get("use_sliding_window")) and window < length:
        raise ValueError(
            f"sliding_window {window:,} is shorter than the context of {length:,} tokens, which is not "
            f"supported. For a context of {window:,} tokens, set max_position_embeddings to {window}"
        )
    if values.get("head_dim", 0) * options["num_heads"] not in (0, options["dim"]):
        options["head_dim"] = values["head_dim"]
    rotary = rotary_arguments(values)
    scaling = dict(rotary["scaling"] or {"rope_type": "default"})
    kind = scaling_type(scaling)
    del scaling["rope_type"]
    scaling = RopeScalingConfig(type="none" if kind == "default" else kind, **scaling)
    return TransformerLMConfig(
        **options,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        rope=RopeConfig(theta=rotary["theta"], layout=layout, scaling=scaling),
    )


def check_keys(values: Mapping[str, Any]) -> None:
    """Raises ValueError for a key that is unknown or selects another model."""
    if "quantization_config" in values:
        raise ValueError("quantized weights are not supported; use the folder of the original weights")
    for key, only in ONLY.items():
        if values.get(key, only) != only:
            raise ValueError(f"{key}={values[key]!r} is not supported, only {only!r}")
    if other := set(values.get("layer_types", ())) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types {', '.join(map(str, other))} is not supported")
    for key in values.keys() - {*KEYS.values(), *ONLY}:
        if not KNOWN.fullmatch(key):
            raise ValueError(f"unknown key {key!r}, which may change the model; if it does not, remove it")


def config_values(config: TransformerLMConfig) -> dict[str, Any]:
    """Inverse of `model_config`; RunError names an option without an equivalent."""
    rope = config.rope
    inexpressible = {
        f"position={config.position}": config.position != "rotary",
        f"learned_rotations={config.learned_rotations}": config.learned_rotations != "none",
        "rope.xpos": rope.xpos,
        "rope.learned_freq": rope.learned_freq,
        "rope.rotary_fraction with a scaling": rope.rotary_fraction != 1 and rope.scaling.type != "none",
        "qk_norm with qkv_bias": config.qk_norm and config.qkv_bias,
    }
    if found := [f"model.{option}" for option, is_set in inexpressible.items() if is_set]:
        raise RunError(f"the Llama family of transformers has no equivalent of {', '.join(found)}")
    # LlamaConfig does not accept other numbers of features.
    plain = "mistral" if config.dim % config.num_heads else "llama"
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else plain
    return {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        **{key: getattr(config, option) for option, key in KEYS.items()},
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rope_parameters": rope_parameters(config),
        "sliding_window": None,
        "dtype": "float32",
    }


def rope_parameters(config: TransformerLMConfig) -> dict[str, Any]:
    """`rope_parameters` that give the frequencies of the model at every length.

    transformers changes those of `dynamic` and `longrope` with the length of the input, the model does not:
    beyond the original length, dynamic becomes a `rope_theta`, and longrope has its long factors twice.
    """
    rope, options = config.rope, config.rotary_options()
    scaling, dim = dict(options["scaling"] or {"rope_type": "default"}), options["dim"]
    kind, length = scaling["rope_type"], options["target_length"]
    stretch = rope.theta_rescale_factor
    if kind == "ntk":
        stretch, scaling = scaling["factor"], {"rope_type": "default"}
    elif kind == "dynamic":
        original = scaling.pop("original_max_position_embeddings")
        if length > original:
            stretch, scaling = 1 + scaling["factor"] * (length / original - 1), {"rope_type": "default"}
    elif kind == "longrope":
        original = scaling["original_max_position_embeddings"]
        if length > original:
            scaling["short_factor"] = scaling["long_factor"]
        if "max_position_embeddings" in scaling:
            scaling["factor"] = scaling.pop("max_position_embeddings") / original
    elif rope.interpolate_factor != 1:
        scaling = {"rope_type": "linear", "factor": rope.interpolate_factor}
    theta = rescaled_theta(rope.theta, dim, stretch)
    if rope.rotary_fraction != 1:
        # theta^(-2i / rotary_dim) = (theta^(head_dim / rotary_dim))^(-2i / head_dim)
        theta **= config.head_size / dim
        scaling |= {"rope_type": "proportional", "partial_rotary_factor": rope.rotary_fraction}
    return {"rope_theta": theta, **scaling}
