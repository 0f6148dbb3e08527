"""nanoGPT's recipe for a CPU, in PyTorch: `python -m benchmarks.nanogpt FOLDER`.

The peer of the speed run: sizes, schedule and loss estimates of
https://github.com/karpathy/nanoGPT#i-only-have-a-macbook. FOLDER holds the characters, uint8, in `train.bin`
and `validation.bin`.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from system.text import print_line

LENGTH, BATCH, DIM, LAYERS, HEADS = 64, 12, 128, 4, 4
STEPS, WARM_UP, RATE, LAST_RATE = 2_000, 100, 1e-3, 1e-4
ESTIMATE_EVERY, ESTIMATE_BATCHES = 250, 20
STDDEV = 0.02


class Model(nn.Module):
    def __init__(self, characters: int):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(characters, DIM), nn.Embedding(LENGTH, DIM)
        options = {"activation": "gelu", "batch_first": True, "norm_first": True, "bias": False}
        block = nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, dropout=0.0, **options)
        norm = nn.LayerNorm(DIM, bias=False)
        self.blocks = nn.TransformerEncoder(block, LAYERS, norm, enable_nested_tensor=False)
        self.mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                is_last = name.endswith(("out_proj.weight", "linear2.weight"))  # of a residual branch
                nn.init.normal_(parameter, std=STDDEV / math.sqrt(2 * LAYERS) if is_last else STDDEV)

    def forward(self, inputs, targets):
        x = self.embedding(inputs) + self.positions.weight
        x = self.blocks(x, mask=self.mask, is_causal=True)
        logits = functional.linear(x, self.embedding.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def draw_batch(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows and the next character at each of their positions."""
    starts = torch.randint(len(tokens) - LENGTH, (BATCH,))
    windows = torch.stack([tokens[start : start + LENGTH + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def learning_rate(step: int) -> float:
    if step < WARM_UP:
        return RATE * (step + 1) / (WARM_UP + 1)
    progress = (step - WARM_UP) / (STEPS - WARM_UP)
    return LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def estimate(model: Model, tokens: torch.Tensor) -> float:
    return sum(model(*draw_batch(tokens)).item() for _ in range(ESTIMATE_BATCHES)) / ESTIMATE_BATCHES


@torch.no_grad()
def total_loss(model: Model, tokens: torch.Tensor) -> float:
    """Mean loss over all tokens, in consecutive windows."""
    end = (len(tokens) - 1) // LENGTH * LENGTH
    inputs, targets = (tokens[at : at + end].view(-1, LENGTH) for at in (0, 1))
    return model(inputs, targets).item()


def train(training: torch.Tensor, validation: torch.Tensor, characters: int) -> Model:
    model = Model(characters)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    gains = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step in range(STEPS):
        if step % ESTIMATE_EVERY == 0:
            losses = [f"{estimate(model, split):.4f}" for split in (training, validation)]
            print_line(f"step {step}: {', '.join(losses)}")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        model(*draw_batch(training)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def main(folder: str) -> None:
    torch.manual_seed(0)
    splits = [np.fromfile(Path(folder, f"{split}.bin"), np.uint8) for split in ("train", "validation")]
    characters, numbers = np.unique(np.concatenate(splits), return_inverse=True)
    training, validation = torch.from_numpy(numbers).split([len(split) for split in splits])
    model = train(training, validation, len(characters))
    print_line(f"{total_loss(model, validation):.4f} nats per character on all of the held-out text")


if __name__ == "__main__":
    main(sys.argv[1])
