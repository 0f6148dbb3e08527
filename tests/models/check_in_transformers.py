"""Compares saved models with transformers, which need not be installed beside TensorFlow.

python -m tests.models.check_in_transformers write FOLDERS        with the packages of requirements.txt
python tests/models/check_in_transformers.py check FOLDERS/*      with torch 2.13.0 and transformers 5.24.0

`check` prints the largest difference of the logits in units of their standard deviation, and fails above
1e-4.
"""

import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4


def write(root: Path) -> None:
    from dataclasses import replace

    from models.config import TransformerLMConfig
    from models.huggingface import save_pretrained
    from models.transformer import TransformerLM
    from tests.models.reference import randomized
    from tests.models.test_huggingface import ROTATIONS

    sizes = {"dim": 24, "num_heads": 6, "num_kv_heads": 3, "head_dim": 8, "qk_norm": False}
    plain = TransformerLMConfig(vocab_size=37, context_length=32, **sizes)
    options = {
        "qwen2": {"qkv_bias": True, "tied_embeddings": False},
        "qwen3": {"qk_norm": True, "norm_epsilon": 1e-3},
        "mistral": {"num_heads": 9},
    }
    for name, rope in ROTATIONS.items():
        head_dim = 8 if "partial" in name else 4  # the lists of longrope are for two pairs
        options[name] = {"rope": rope, "head_dim": head_dim}
    tokens = np.random.default_rng(0).integers(0, 37, (2, 32)).astype(np.int32)
    for name, changes in options.items():
        model = randomized(TransformerLM(replace(plain, **changes)))
        folder = root / name.replace(" ", "_")
        save_pretrained(model, folder)
        np.savez(folder / "expected.npz", tokens=tokens, logits=model(tokens))


def check(folder: Path) -> bool:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected, differences = np.load(folder / "expected.npz"), []
    for length in (32, 5):  # dynamic scalings depend on the length
        tokens, logits = (expected[key][:, :length] for key in ("tokens", "logits"))
        with torch.no_grad():
            actual = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
        differences.append(float(abs(actual - logits).max() / logits.std()))
    print(f"{folder}: {type(model).__name__}, difference {max(differences):.1e}")
    return max(differences) < TOLERANCE


def main(command: str, *paths: str) -> int:
    if command == "write":
        write(Path(paths[0]))
        return 0
    results = [check(Path(path)) for path in paths]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
