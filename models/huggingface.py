"""Models of the Llama family in folders of Hugging Face transformers: reading and writing.

A folder holds `config.json`, the tensors in safetensors files, and `tokenizer.json`. Neither torch nor
transformers is needed.

Shape words: in, out, the input and output features of a projection; head_dim.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import keras
import ml_dtypes  # noqa: F401, defines the bfloat16 of NumPy
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.config import TransformerLMConfig
from models.huggingface_config import config_values, model_config
from models.transformer import TransformerLM
from rope.layouts import layout_permutation
from system.errors import DataError, reason

CONFIG, TENSORS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
# Tensors of each weight, joined along their output features; those of block N begin with `model.layers.N.`.
NAMES = {
    "embedding/embeddings": ("model.embed_tokens.weight",),
    "embedding/reverse_embeddings": ("lm_head.weight",),
    "norm/scale": ("model.norm.weight",),
}
BLOCK_NAMES = {
    "attention_norm/scale": ("input_layernorm.weight",),
    "attention/qkv/kernel": tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    "attention/qkv/bias": tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "attention/query_norm/scale": ("self_attn.q_norm.weight",),
    "attention/key_norm/scale": ("self_attn.k_norm.weight",),
    "attention/output/kernel": ("self_attn.o_proj.weight",),
    "mlp_norm/scale": ("post_attention_layernorm.weight",),
    "mlp/gate_and_up/kernel": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp/down/kernel": ("mlp.down_proj.weight",),
}
ROTATED = re.compile(r"\.[qk]_(proj|norm)\.")
UNREAD = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
DTYPES = ("F32", "F16", "BF16")
ROWS = 4_096  # assigned at once


def load_pretrained(folder: Path | str, dtype: str = "float32", layout: str = "half") -> TransformerLM:
    """Model of a folder, with float32 weights; the tensors are read one at a time.

    Args:
        folder: holds `config.json`, and `model.safetensors` or its shards with their index.
        dtype: Keras dtype policy, `float32` or `mixed_bfloat16`.
        layout: pair layout of the rotation. That of the files is `half`; for `interleaved` the features of
            queries and keys are reordered, which leaves the logits equal.

    Raises:
        DataError: if a file is missing or damaged, or holds what `TransformerLM` has no option for.
    """
    folder = Path(folder)
    values = read_json(folder / CONFIG)
    try:
        config = model_config(values, layout=layout)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise DataError(f"{folder / CONFIG}: {reason(error)}") from error
    files = find_tensors(folder)
    model = TransformerLM(config, dtype=dtype)
    order, weights = feature_order(config), stored_weights(model)
    expected = [name for _, shapes in weights for name in shapes]
    check_names(folder, files, expected, is_tied=config.tied_embeddings)
    for variable, shapes in weights:
        parts = [reorder(read(files[name], name, shape), name, order) for name, shape in shapes.items()]
        rows = np.concatenate(parts) if parts[1:] else parts[0]
        rows = rows.T if is_transposed(variable) else rows
        for start in range(0, len(rows), ROWS):  # in place, without a copy of an embedding
            variable.value[start : start + ROWS].assign(rows[start : start + ROWS])
    return model


def save_pretrained(model: TransformerLM, folder: Path | str, tokenizer=None) -> None:
    """Writes a model, in float32, as a folder that `AutoModelForCausalLM` of transformers loads.

    Args:
        model: see `config_values` for the options that it may have.
        folder: existing or new directory.
        tokenizer: of `data.tokenizer`, whose `tokenizer.json` is written too; that of bytes has 256 tokens.

    Raises:
        RunError: if an option of the model has no equivalent.
    """
    folder, values, tensors = Path(folder), config_values(model.config), {}
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        values |= {"bos_token_id": tokenizer.separator, "eos_token_id": list(tokenizer.stop_tokens)}
        (folder / TOKENIZER).write_text(tokenizer.json or byte_tokenizer(), encoding="utf-8")
        options = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        options["bos_token"] = tokenizer.special.get(tokenizer.separator)
        options["eos_token"] = tokenizer.special.get(tokenizer.stop_tokens[-1])
        write_json(folder / "tokenizer_config.json", options)
    write_json(folder / CONFIG, values)
    order = np.argsort(feature_order(model.config))
    for variable, shapes in stored_weights(model):
        rows = variable.numpy().T if is_transposed(variable) else variable.numpy()
        ends = np.cumsum([shape[0] for shape in shapes.values()])
        for name, part in zip(shapes, np.split(rows, ends[:-1]), strict=True):
            tensors[name] = np.ascontiguousarray(reorder(part, name, order))
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    (folder / TENSORS).chmod((folder / CONFIG).stat().st_mode)  # it is private to its owner otherwise


def stored_weights(model: TransformerLM) -> list[tuple[keras.Variable, dict[str, tuple[int, ...]]]]:
    """Weights of a model, each with the shapes of its tensors by name; see `NAMES`."""
    weights, config = [], model.config
    for variable in model.weights:
        path = variable.path.partition("/")[2]
        block, _, place = path.partition("/")
        prefix = f"model.layers.{block.removeprefix('block_')}."
        names = NAMES.get(path) or [prefix + name for name in BLOCK_NAMES[place]]
        out, *inputs = variable.shape[::-1] if is_transposed(variable) else variable.shape
        sizes = [out // len(names)] * len(names)
        if "/qkv/" in path:
            keys = config.num_kv_heads * config.head_size
            sizes = [out - 2 * keys, keys, keys]
        weights.append((variable, {name: (size, *inputs) for name, size in zip(names, sizes, strict=True)}))
    return weights


def is_transposed(variable: keras.Variable) -> bool:
    """Whether a weight is (in, out), and (out, in) in a folder."""
    return variable.path.endswith(("kernel", "reverse_embeddings"))


def reorder(rows: np.ndarray, name: str, order: np.ndarray) -> np.ndarray:
    """Tensor (heads * head_dim, ...) with the features of each head in `order`, if they are rotated."""
    if not ROTATED.search(name):
        return rows
    return rows.reshape(-1, len(order), *rows.shape[1:])[:, order].reshape(rows.shape)


def feature_order(config: TransformerLMConfig) -> np.ndarray:
    """(head_dim,) indices of the features of a head in a folder, where pair i is (i, i + head_dim / 2)."""
    rotary_dim = config.rotary_options()["dim"]
    pairs = np.arange(config.head_size).reshape(2, -1)  # (2, head_dim / 2)
    rotated, others = np.split(pairs, [rotary_dim // 2], axis=1)
    half = np.concatenate([rotated.reshape(-1), others.reshape(-1)])  # (head_dim,)
    options = {"source": "half", "target": config.rope.layout, "rotary_dim": rotary_dim}
    return half[layout_permutation(config.head_size, **options)]


def find_tensors(folder: Path) -> dict[str, Path]:
    """File of each tensor, by the name of the tensor."""
    files, tensors = [TENSORS], {}
    if not (folder / TENSORS).exists():
        if (folder / INDEX).exists():
            files = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        elif pickles := sorted(folder.glob("*.bin")):
            raise DataError(
                f"{pickles[0]} is a pickle, which can execute code when it is read. Convert it with "
                "save_pretrained of transformers, which writes safetensors"
            )
    for name in files:
        try:
            with safe_open(folder / name, framework="numpy") as file:
                tensors |= dict.fromkeys(file.keys(), folder / name)
        except FileNotFoundError as error:
            raise DataError(f"{folder / name} is missing") from error
        except (SafetensorError, OSError) as error:
            raise DataError(f"{folder / name} is damaged or incomplete: {reason(error)}") from error
    return tensors


def check_names(folder: Path, found: Iterable[str], expected: list[str], *, is_tied: bool) -> None:
    """Raises DataError for a missing tensor, and for one that belongs to no weight."""
    if missing := sorted({*expected} - {*found}):
        raise DataError(f"{folder} has no tensor {missing[0]} ({len(missing)} of {len(expected)} missing)")
    for name in sorted({*found} - {*expected}):
        if not UNREAD.fullmatch(name) and not (is_tied and name == "lm_head.weight"):
            raise DataError(f"{folder}: the model of {CONFIG} has no weight for the tensor {name}")


def read(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor as float32; DataError if it has another shape or dtype."""
    # Opened for each tensor: the pages of a file that stays mapped count as memory of the process.
    with safe_open(path, framework="numpy") as file:
        header = file.get_slice(name)
        found, dtype = tuple(header.get_shape()), header.get_dtype()
        if found != shape:
            raise DataError(f"{path}: {name} has the shape {found}, but {CONFIG} gives {shape}")
        if dtype not in DTYPES:
            raise DataError(f"{path}: {name} is {dtype}, expected one of {', '.join(DTYPES)}")
        return file.get_tensor(name).astype(np.float32, copy=False)


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path.parent} is not a folder of a Hugging Face model: it has no {path.name}"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from error


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def byte_tokenizer() -> str:
    """A `tokenizer.json` whose tokens are the bytes of UTF-8 text."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": True}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, "decoder": decoder})
