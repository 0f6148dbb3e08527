"""Makes peer_values.npz: results of other libraries, by the table of `rope/README.md` and by `CONFIGS`.

pip install torch==2.14.1 rotary-embedding-torch==0.9.1 keras-hub==0.32.0 transformers==5.24.0
python -m tests.rope.make_peer_values

The tests import the inputs from here, so that the libraries are imported inside functions.
"""

from pathlib import Path

import numpy as np

from tests.rope import reference

ROOT = Path(__file__).parents[2]
VALUES = Path(__file__).with_name("peer_values.npz")

LLAMA3 = reference.LLAMA3 | {"factor": 4.0}
YARN = reference.SCHEMES["yarn"]["scaling"]
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.0, 2.0, 4.0, 8.0]}
SIZES = {"hidden_size": 24, "num_attention_heads": 3, "max_position_embeddings": 256}
# Model type and keys of a config.json, in the formats of transformers 4 and 5.
CONFIGS = {
    "default": ("llama", {"rope_theta": 700.0}),
    "head_dim": ("llama", {"head_dim": 12, "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}),
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "dynamic": ("llama", {"rope_theta": 700.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "yarn": ("llama", {"rope_theta": 700.0, "rope_scaling": YARN}),
    "yarn without length": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 700.0}},
    ),
    "llama3": ("llama", {"rope_theta": 700.0, "rope_scaling": LLAMA3}),
    "longrope": (
        "phi3",
        {"original_max_position_embeddings": 64, "rope_scaling": LONGROPE, "pad_token_id": 0},
    ),
    "partial": ("phi", {"partial_rotary_factor": 0.5, "rope_theta": 700.0}),
    "partial yarn": ("phi", {"partial_rotary_factor": 0.5, "rope_scaling": YARN}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 700.0}),
    "cohere": ("cohere", {"rope_theta": 700.0, "pad_token_id": 0}),
    "glm": ("glm", {"head_dim": 8, "partial_rotary_factor": 0.5, "pad_token_id": 0}),
}
LENGTH = 300  # beyond max_position_embeddings, which dynamic and longrope depend on
STEP = 23  # between the positions that are stored


def config_json(name: str) -> dict:
    model_type, keys = CONFIGS[name]
    return {"model_type": model_type, **SIZES, **keys}


def table_rows() -> list[tuple[str, str, str]]:
    """Library, code there and code here of each row of the table of `rope/README.md`."""
    readme = (ROOT / "rope" / "README.md").read_text()
    table = readme.partition("you write here |\n")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return [
        (library, their_code.strip("`"), (their_code if code.startswith("the same") else code).strip("`"))
        for library, their_code, code in rows
    ]


def inputs() -> dict[str, np.ndarray]:
    """Arrays that the code of the table uses."""
    rng = np.random.default_rng(0)
    shapes = {
        "q": (2, 3, 5, 8),  # (batch, heads, length, head_dim)
        "k": (2, 3, 5, 8),
        "x": (2, 5, 3, 8),  # (batch, length, heads, head_dim)
        "y": (2, 5, 3, 8),
        "patches": (2, 3, 5, 8),  # (batch, height, width, dim)
        "rotations": (2, 3, 5, 4),  # (batch, heads, length, dim / 2)
    }
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return arrays | {"positions": np.array([[0, 0, 1, 2, 3], [4, 5, 7, 8, 9]])}


def peer_names(library: str) -> dict:
    """Names that the code of a library uses, with the inputs as its tensors."""
    import torch
    from transformers.models.llama import modeling_llama

    tensors = {name: torch.from_numpy(value) for name, value in inputs().items()}
    if library == "rotary_embedding_torch":
        import rotary_embedding_torch

        return {**vars(rotary_embedding_torch), **tensors}
    if library == "keras_hub":
        import keras_hub

        return {"RotaryEmbedding": keras_hub.layers.RotaryEmbedding, **inputs()}
    return {**vars(modeling_llama), **tensors, "config": hf_config("llama3")}


def hf_config(name: str):
    from transformers import AutoConfig

    keys = config_json(name)
    return AutoConfig.for_model(**{key: dict(v) if isinstance(v, dict) else v for key, v in keys.items()})


def rotated_by_transformers(name: str) -> np.ndarray:
    """(1, 1, some of LENGTH, head_dim) features, rotated by the model's own embedding."""
    import importlib

    import torch

    config = hf_config(name)
    module = importlib.import_module(f"transformers.models.{config.model_type}.modeling_{config.model_type}")
    (embedding,) = [value for key, value in vars(module).items() if key.endswith("RotaryEmbedding")]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    x = torch.from_numpy(features(head_dim))
    cos, sin = embedding(config)(x, torch.arange(LENGTH)[None])
    rotated = cos.shape[-1]
    turned, _ = module.apply_rotary_pos_emb(x[..., :rotated], x[..., :rotated], cos, sin)
    return torch.cat([turned, x[..., rotated:]], dim=-1).numpy()[:, :, ::STEP]


def features(head_dim: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 1, LENGTH, head_dim)).astype(np.float32)


def main() -> None:
    arrays = {}
    for row, (library, code, _) in enumerate(table_rows()):
        results = eval(code, peer_names(library))
        results = results if isinstance(results, tuple) else (results,)
        arrays[f"row/{row}/code"] = np.array(code)
        for index, result in enumerate(results):
            arrays[f"row/{row}/{index}"] = np.array(result.detach() if hasattr(result, "detach") else result)
    for name in CONFIGS:
        arrays[f"config/{name}"] = rotated_by_transformers(name)
    np.savez_compressed(VALUES, **arrays)


if __name__ == "__main__":
    main()
