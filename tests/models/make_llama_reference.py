"""Makes llama_reference.npz: weights, tokens and logits of tiny random Llamas of Hugging Face transformers.

pip install torch==2.13.0 transformers==5.23.0
python tests/models/make_llama_reference.py
"""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
ROTATIONS = {
    "plain": {"rope_type": "default", "rope_theta": 700.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 700.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, SIZES["vocab_size"], (2, 40))
    arrays = {"tokens": tokens.numpy().astype(np.int32)}
    weights = None
    for name, rotation in ROTATIONS.items():
        model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rotation)).eval()
        if weights is None:
            # Larger than the initial weights, so that attention is far from uniform.
            weights = {key: torch.randn_like(value) * 0.3 for key, value in model.state_dict().items()}
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
            arrays |= {
                f"weights/{key}": value.numpy() for key, value in weights.items() if key != "lm_head.weight"
            }
        model.load_state_dict(weights)
        with torch.no_grad():
            arrays[f"logits/{name}"] = model(tokens).logits.numpy()
    np.savez_compressed(Path(__file__).with_name("llama_reference.npz"), **arrays)


if __name__ == "__main__":
    main()
