"""The same work by PyTorch, rotary-embedding-torch and transformers, each at its best: compiled, fused."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from scripts.benchmarks.harness import Work

VOCAB_SIZE, CHANNELS, CLASSES, PATCH_SIZE = 256, 3, 10, 4
ROTATIONS = 20
DTYPES = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16, "bfloat16": torch.bfloat16}


def package_rotation(*, head_dim: int, **options) -> Work:
    from rotary_embedding_torch import RotaryEmbedding

    return rotation_by(RotaryEmbedding(head_dim).rotate_queries_or_keys, head_dim=head_dim, **options)


def half_rotation(*, length: int, head_dim: int, **options) -> Work:
    """By the few lines that models have of their own."""
    rotate = Rotation(angles_of(torch.arange(length), head_dim // 2))
    return rotation_by(rotate, length=length, head_dim=head_dim, **options)


def rotation_by(
    rotate: Callable,
    *,
    batch: int,
    heads: int,
    length: int,
    head_dim: int,
    dtype: str,
    direction: str,
    mode: str,
) -> Work:
    rotate = torch.compile(rotate) if mode == "compiled" else rotate
    backward = direction == "forward+backward"
    x = torch.randn(batch, heads, length, head_dim, dtype=DTYPES[dtype], requires_grad=backward)
    gradient = x.detach().clone()

    def call():
        with torch.set_grad_enabled(backward):
            for _ in range(ROTATIONS):
                rotated = rotate(x)
                if backward:
                    torch.autograd.grad(rotated, x, gradient)

    return Work(call, ROTATIONS)


def train_step(*, batch: int, length: int, precision: str, dim: int, **sizes) -> Work:
    tokens = torch.randint(VOCAB_SIZE, (batch, length + 1))
    angles = angles_of(torch.arange(length), dim // sizes["num_heads"] // 2)
    embedding = nn.Embedding(VOCAB_SIZE, dim)
    nn.init.normal_(embedding.weight, std=0.02)
    model = Transformer(
        embedding, nn.Linear(dim, VOCAB_SIZE, bias=False), angles, causal=True, dim=dim, **sizes
    )
    model.head.weight = embedding.weight
    return step_of(model, precision, tokens[:, :-1], tokens[:, 1:])


def vision_step(*, batch: int, grid: int, precision: str, dim: int, num_heads: int, **sizes) -> Work:
    images = torch.randn(batch, grid * PATCH_SIZE, grid * PATCH_SIZE, CHANNELS)
    of_axis = angles_of(torch.arange(grid), dim // num_heads // 4)
    angles = torch.cat([of_axis.repeat_interleave(grid, 0), of_axis.repeat(grid, 1)], -1)
    embedding, head = Patches(dim), nn.Sequential(Mean(), nn.Linear(dim, CLASSES, bias=False))
    sizes |= {"dim": dim, "num_heads": num_heads, "num_kv_heads": num_heads}
    model = Transformer(embedding, head, angles, causal=False, **sizes)
    return step_of(model, precision, images, torch.zeros(batch, dtype=torch.long))


def step_of(model: nn.Module, precision: str, inputs: torch.Tensor, targets: torch.Tensor) -> Work:
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    loss_of = torch.compile(model)

    def call():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
            loss = loss_of(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Work(call)


def generation(*, batch: int, prompt: int, tokens: int, precision: str, mode: str, **sizes) -> Work:
    """Greedy tokens of transformers' Llama, which is the same architecture."""
    from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=sizes["dim"],
        intermediate_size=sizes["mlp_dim"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        num_key_value_heads=sizes["num_kv_heads"],
        max_position_embeddings=prompt + tokens,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(DTYPES[precision]).eval()
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    if mode == "compiled":
        compile_config = CompileConfig()
        compile_config._compile_all_devices = True  # on a CPU too, as its own tests do
        options |= {"cache_implementation": "static", "compile_config": compile_config}
    prompts = torch.randint(VOCAB_SIZE, (batch, prompt))

    def call():
        made = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        if made.shape[1] != prompt + tokens:
            raise RuntimeError(f"transformers made {made.shape[1] - prompt} tokens instead of {tokens}")

    return Work(call, tokens)


def angles_of(positions: torch.Tensor, pairs: int) -> torch.Tensor:
    return positions[:, None] * 10_000 ** -(torch.arange(pairs) / pairs)


class Rotation(nn.Module):
    """Of (..., length, head_dim) in the half layout, in float32 whatever the dtype."""

    def __init__(self, angles: torch.Tensor):
        super().__init__()
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, x):
        a, b = x.float().chunk(2, -1)
        rotated = [a * self.cosines - b * self.sines, a * self.sines + b * self.cosines]
        return torch.cat(rotated, -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, rotate, *, causal, dim, num_heads, num_kv_heads, mlp_dim):
        super().__init__()
        self.rotate, self.causal = rotate, causal
        self.heads, self.head_dim = [num_heads, num_kv_heads, num_kv_heads], dim // num_heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.qkv = nn.Linear(dim, sum(self.heads) * self.head_dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.gate_and_up = nn.Linear(dim, 2 * mlp_dim, bias=False)
        self.down = nn.Linear(mlp_dim, dim, bias=False)

    def forward(self, x):
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        queries, keys, values = qkv.split(self.heads, 1)
        mixed = functional.scaled_dot_product_attention(
            self.rotate(queries),
            self.rotate(keys),
            values,
            is_causal=self.causal,
            enable_gqa=keys.shape[1] < queries.shape[1],
        )
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_and_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Transformer(nn.Module):
    """The loss of a language model or of a vision transformer, by its embedding and its head."""

    def __init__(self, embedding, head, angles, *, dim: int, num_layers: int, **options):
        super().__init__()
        rotate = Rotation(angles)
        self.embedding, self.head, self.norm = embedding, head, nn.RMSNorm(dim, eps=1e-5)
        self.blocks = nn.Sequential(*(Block(rotate, dim=dim, **options) for _ in range(num_layers)))

    def forward(self, inputs, targets):
        logits = self.head(self.norm(self.blocks(self.embedding(inputs))))
        return functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


class Patches(nn.Linear):
    def __init__(self, dim):
        super().__init__(PATCH_SIZE**2 * CHANNELS, dim, bias=False)

    def forward(self, images):
        patches = images.unflatten(1, (-1, PATCH_SIZE)).unflatten(3, (-1, PATCH_SIZE))
        return super().forward(patches.transpose(2, 3).flatten(3).flatten(1, 2))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)
