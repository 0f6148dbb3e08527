"""Workloads implemented with PyTorch, rotary-embedding-torch and transformers, eager or compiled."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.harness import CALLS, CHANNELS, CLASSES, PATCH_SIZE, Work

DTYPES = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16, "bfloat16": torch.bfloat16}
COMPILE = {"eager": lambda function: function, "compiled": torch.compile}


def package_rotation(*, head_dim: int, **options) -> Work:
    from rotary_embedding_torch import RotaryEmbedding

    return time_rotation(RotaryEmbedding(head_dim).rotate_queries_or_keys, head_dim=head_dim, **options)


def half_rotation(*, length: int, head_dim: int, **options) -> Work:
    """Rotation written out in PyTorch, without a library."""
    rotate = Rotation(rotary_angles(length, head_dim // 2))
    return time_rotation(rotate, length=length, head_dim=head_dim, **options)


def time_rotation(
    rotate: Callable, *, batch, heads, length, head_dim, dtype: str, direction: str, mode: str
) -> Work:
    rotate, backward = COMPILE[mode](rotate), direction == "forward+backward"
    x = torch.randn(batch, heads, length, head_dim, dtype=DTYPES[dtype], requires_grad=backward)
    gradient = x.detach().clone()

    def call():
        with torch.set_grad_enabled(backward):
            for _ in range(CALLS):
                rotated = rotate(x)
                if backward:
                    torch.autograd.grad(rotated, x, gradient)

    return Work(call, CALLS)


def text_step(*, batch: int, length: int, precision: str, mode: str, **sizes) -> Work:
    tokens = torch.randint(256, (batch, length + 1))
    return step_of(language_model(length, **sizes), precision, mode, tokens[:, :-1], tokens[:, 1:])


def language_model(length: int, *, dim: int, num_heads: int, **sizes) -> nn.Module:
    embedding, head = nn.Embedding(256, dim), linear(dim, 256)
    nn.init.normal_(embedding.weight, std=0.02)
    head.weight = embedding.weight
    angles = rotary_angles(length, dim // num_heads // 2)
    return Transformer(embedding, head, angles, causal=True, dim=dim, num_heads=num_heads, **sizes)


def image_step(
    *, batch: int, grid: int, precision: str, mode: str, dim: int, num_heads: int, **sizes
) -> Work:
    axis_angles = rotary_angles(grid, dim // num_heads // 4)
    angles = torch.cat([axis_angles.repeat_interleave(grid, 0), axis_angles.repeat(grid, 1)], -1)
    sizes |= {"dim": dim, "num_heads": num_heads}
    model = Transformer(Patches(dim), linear(dim, CLASSES), angles, causal=False, **sizes)
    images = torch.randn(batch, CHANNELS, grid * PATCH_SIZE, grid * PATCH_SIZE)
    return step_of(model, precision, mode, images, torch.zeros(batch, dtype=torch.long))


def step_of(model: nn.Module, precision: str, mode: str, inputs, targets) -> Work:
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    compute_loss = COMPILE[mode](model)

    def call():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
            loss = compute_loss(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Work(call)


def generation(*, batch: int, prompt: int, tokens: int, precision: str, mode: str, **sizes) -> Work:
    """Greedy decoding by the Llama of transformers, which has the same architecture."""
    from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=sizes["dim"],
        intermediate_size=sizes["mlp_dim"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        max_position_embeddings=prompt + tokens,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(DTYPES[precision]).eval()
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    if mode == "compiled":
        compile_config = CompileConfig()
        compile_config._compile_all_devices = True  # also on a CPU, as in the tests of transformers
        options |= {"cache_implementation": "static", "compile_config": compile_config}
    prompts = torch.randint(256, (batch, prompt))

    def call():
        sequences = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        if sequences.shape[1] != prompt + tokens:
            raise RuntimeError(f"transformers generated {sequences.shape[1] - prompt} tokens, not {tokens}")

    return Work(call, tokens)


def rotary_angles(length: int, pairs: int) -> torch.Tensor:
    return torch.arange(length)[:, None] * 10_000 ** -(torch.arange(pairs) / pairs)


class Rotation(nn.Module):
    """Rotation of (..., length, head_dim) in the half layout, computed in float32."""

    def __init__(self, angles: torch.Tensor):
        super().__init__()
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, x):
        a, b = x.float().chunk(2, -1)
        rotated = [a * self.cosines - b * self.sines, a * self.sines + b * self.cosines]
        return torch.cat(rotated, -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, rotate, *, causal, dim, num_heads, mlp_dim):
        super().__init__()
        self.rotate, self.causal, self.num_heads = rotate, causal, num_heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.qkv, self.output = linear(dim, 3 * dim), linear(dim, dim)
        self.gate_and_up, self.down = linear(dim, 2 * mlp_dim), linear(mlp_dim, dim)

    def forward(self, x):
        parts = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = parts.transpose(1, 3).unbind(2)  # (batch, heads, length, head_dim) each
        mixed = functional.scaled_dot_product_attention(
            self.rotate(queries), self.rotate(keys), values, is_causal=self.causal
        )
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_and_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Transformer(nn.Module):
    """Loss of a language model or a vision transformer, depending on its embedding and head."""

    def __init__(self, embedding, head, angles, *, dim: int, num_layers: int, **options):
        super().__init__()
        self.embedding, self.head, self.norm = embedding, head, nn.RMSNorm(dim, eps=1e-5)
        self.causal, rotate = options["causal"], Rotation(angles)
        self.blocks = nn.Sequential(*(Block(rotate, dim=dim, **options) for _ in range(num_layers)))

    def forward(self, inputs, targets):
        x = self.norm(self.blocks(self.embedding(inputs)))
        logits = self.head(x if self.causal else x.mean(1))
        return functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


class Patches(nn.Linear):
    def __init__(self, dim: int):
        super().__init__(PATCH_SIZE**2 * CHANNELS, dim, bias=False)

    def forward(self, images):
        return super().forward(functional.unfold(images, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2))


def linear(features: int, outputs: int) -> nn.Linear:
    return nn.Linear(features, outputs, bias=False)
