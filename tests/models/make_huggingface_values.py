"""Makes tests/models/huggingface: configs, weights and logits of tiny random models of transformers.

pip install torch==2.13.0 transformers==5.24.0
python tests/models/make_huggingface_values.py [STORIES260K]

`CASE.json` is a config.json, `WEIGHTS.safetensors` the tensors of the cases whose weights it names in
`cases.json`. With a path of the stories260k checkpoint, its logits are made too.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

FOLDER = Path(__file__).with_name("huggingface")
LENGTH, SCALED_LENGTH = 40, 16
SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 1.5, 2.5, 4.0]}
ROTATIONS = {
    "plain": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0},
    "longrope": {"rope_type": "longrope", "factor": 4.0, **FACTORS},
    "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
# Case: class, options that differ from SIZES, dtype of the stored weights. Each has its own weights.
FAMILIES = {
    "llama": (LlamaConfig, {}, torch.float32),
    "untied": (LlamaConfig, {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}, torch.bfloat16),
    "head_dim": (LlamaConfig, {"head_dim": 12}, torch.float16),
    "mistral": (MistralConfig, {"sliding_window": 64, "num_key_value_heads": 1}, torch.bfloat16),
    "qwen2": (Qwen2Config, {}, torch.bfloat16),
    "qwen3": (Qwen3Config, {"head_dim": 16, "tie_word_embeddings": False}, torch.bfloat16),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    tokens = torch.randint(0, SIZES["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(1))
    arrays, weights_of = {"tokens": tokens.numpy().astype(np.int32)}, {}
    for seed, (family, (make, options, dtype)) in enumerate(FAMILIES.items()):
        weights = None
        for name, rotation in ROTATIONS.items() if family == "llama" else [("plain", ROTATIONS["plain"])]:
            rotation = {**rotation, "rope_theta": 700.0}
            if name in ("yarn", "longrope", "llama3"):
                rotation["original_max_position_embeddings"] = SCALED_LENGTH
            sizes = SIZES | options | ({"max_position_embeddings": 32} if name == "dynamic" else {})
            model = AutoModelForCausalLM.from_config(make(**sizes, rope_parameters=rotation)).eval()
            weights = weights or random_weights(model, dtype, seed)
            model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
            case = family if name == "plain" else name
            weights_of[case] = family
            with torch.no_grad():
                arrays[case] = model(tokens).logits.numpy()
            model.config.architectures = [type(model).__name__]
            (FOLDER / f"{case}.json").write_text(model.config.to_json_string())
        save_file(weights, FOLDER / f"{family}.safetensors", metadata={"format": "pt"})
    (FOLDER / "cases.json").write_text(json.dumps(weights_of, indent=1) + "\n")
    np.savez_compressed(FOLDER / "logits.npz", **arrays)
    if len(sys.argv) > 1:
        write_story_values(sys.argv[1])


def random_weights(model, dtype, seed):
    # Larger than the initial ones, so that attention is far from uniform.
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, value in model.state_dict().items():
        if key != "lm_head.weight" or not model.config.tie_word_embeddings:
            noise = 0.3 * torch.randn(value.shape, generator=generator)
            weights[key] = (noise + (1 if "norm" in key else 0)).to(dtype)
    return weights


def write_story_values(checkpoint) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokens = model.generate(torch.tensor([[1]]), max_new_tokens=39, do_sample=False)
    with torch.no_grad():
        logits = model(tokens).logits[:, ::2]
    values = {"tokens": tokens.numpy().astype(np.int32), "logits": logits.numpy()}
    np.savez_compressed(FOLDER / "stories260k.npz", **values)


if __name__ == "__main__":
    main()
