"""The whole model against Hugging Face transformers' Llama; `make_llama_reference.py` made the numbers."""

from pathlib import Path

import numpy as np
import pytest

from models.config import RopeConfig, RopeScalingConfig, TransformerLMConfig
from models.transformer import TransformerLM

REFERENCE = np.load(Path(__file__).with_name("llama_reference.npz"))
NUM_LAYERS = 2
LLAMA3 = RopeScalingConfig(
    type="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def llama_config(rope: RopeConfig) -> TransformerLMConfig:
    return TransformerLMConfig(
        vocab_size=37,
        context_length=64,
        dim=32,
        num_layers=NUM_LAYERS,
        num_heads=4,
        num_kv_heads=2,
        mlp_dim=24,
        rope=rope,
    )


def load_llama_weights(model: TransformerLM) -> None:
    """A PyTorch kernel is (out, in), a Keras kernel (in, out)."""
    weights = {
        name.removeprefix("weights/model."): REFERENCE[name] for name in REFERENCE.files if "weights" in name
    }
    arrays = {"embedding/embeddings": weights["embed_tokens.weight"], "norm/scale": weights["norm.weight"]}
    for index in range(NUM_LAYERS):
        layer = {
            name.removeprefix(f"layers.{index}."): value
            for name, value in weights.items()
            if name.startswith(f"layers.{index}.")
        }
        joined = {
            "attention/qkv/kernel": [layer[f"self_attn.{part}_proj.weight"] for part in "qkv"],
            "attention/output/kernel": [layer["self_attn.o_proj.weight"]],
            "mlp/gate_and_up/kernel": [layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"]],
            "mlp/down/kernel": [layer["mlp.down_proj.weight"]],
        }
        arrays |= {f"block_{index}/{name}": np.concatenate(parts).T for name, parts in joined.items()}
        arrays[f"block_{index}/attention_norm/scale"] = layer["input_layernorm.weight"]
        arrays[f"block_{index}/mlp_norm/scale"] = layer["post_attention_layernorm.weight"]
    paths = {variable.path.removeprefix("transformer_lm/"): variable for variable in model.variables}
    assert paths.keys() == arrays.keys()
    for name, variable in paths.items():
        variable.assign(arrays[name])


@pytest.mark.parametrize(
    ("rotation", "rope"),
    [
        ("plain", RopeConfig(theta=700.0, layout="half")),
        ("llama3", RopeConfig(theta=700.0, layout="half", scaling=LLAMA3)),
    ],
)
def test_logits_equal_those_of_llama(rotation, rope):
    model = TransformerLM(llama_config(rope))
    load_llama_weights(model)
    expected = REFERENCE[f"logits/{rotation}"]
    np.testing.assert_allclose(model(REFERENCE["tokens"]), expected, atol=1e-4)  # float32, logits near 10
