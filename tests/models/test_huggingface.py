"""Folders of the Llama family: `make_huggingface_values.py` made weights and logits with transformers."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load, load_file, save_file

from models.config import RopeConfig, RopeScalingConfig, TransformerLMConfig
from models.huggingface import load_pretrained, save_pretrained
from models.huggingface_config import config_values, model_config
from models.transformer import TransformerLM
from tests.models.reference import relative_difference

VALUES = Path(__file__).with_name("huggingface")
CASES = json.loads((VALUES / "cases.json").read_text())
LOGITS = np.load(VALUES / "logits.npz")
STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k"
TOLERANCE = 1e-4  # of the standard deviation, in float32


def folder_of(case, path):
    path.mkdir(exist_ok=True)
    shutil.copy(VALUES / f"{case}.json", path / "config.json")
    shutil.copy(VALUES / f"{CASES[case]}.safetensors", path / "model.safetensors")
    return path


def change_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("case", CASES)
def test_logits_of_each_family_and_rotation_equal_those_of_transformers(case, tmp_path):
    tokens, expected = LOGITS["tokens"], LOGITS[case]
    model = load_pretrained(folder_of(case, tmp_path))
    if case == "dynamic":  # transformers scales by the length of the input, the model by its context_length
        scaled = TransformerLM(replace(model.config, context_length=tokens.shape[1]))
        scaled.set_weights(model.get_weights())
        assert relative_difference(model(tokens), expected) > 100 * TOLERANCE
        model = scaled
    assert relative_difference(model(tokens), expected) < TOLERANCE
    # Each case differs from the plain Llama: no option is ignored.
    assert case == "llama" or relative_difference(LOGITS["llama"], expected) > 100 * TOLERANCE


@pytest.mark.parametrize("case", ["yarn", "qwen2", "qwen3"])
def test_logits_in_layout_interleaved_are_equal_and_the_tensors_are_restored(case, tmp_path):
    folder = folder_of(case, tmp_path / "folder")
    model = load_pretrained(folder, layout="interleaved")
    assert model.config.rope.layout == "interleaved"
    assert relative_difference(model(LOGITS["tokens"]), LOGITS[case]) < TOLERANCE
    save_pretrained(model, tmp_path / "saved")
    original, saved = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "saved"))
    assert original.keys() == saved.keys()
    for name, value in original.items():
        np.testing.assert_array_equal(saved[name], value.astype(np.float32), err_msg=name)
    assert load_pretrained(tmp_path / "saved").config == load_pretrained(folder).config


def test_mixed_precision_is_that_of_the_computation(tmp_path):
    model = load_pretrained(folder_of("llama", tmp_path), dtype="mixed_bfloat16")
    assert 1e-3 < relative_difference(model(LOGITS["tokens"]), LOGITS["llama"]) < 0.3  # 8 bits


def test_shards_are_read_through_their_index(tmp_path):
    folder = folder_of("untied", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    assert {value.dtype for value in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert relative_difference(load_pretrained(folder)(LOGITS["tokens"]), LOGITS["untied"]) < TOLERANCE
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-2\.safetensors is missing"):
        load_pretrained(folder)


def test_a_config_of_transformers_4_gives_the_same_model():
    values = json.loads((VALUES / "yarn.json").read_text())
    scaling = values.pop("rope_parameters")
    scaling["type"] = scaling.pop("rope_type")
    old = {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling, "torch_dtype": "bfloat16"}
    assert model_config(values | old) == model_config(json.loads((VALUES / "yarn.json").read_text()))


def test_missing_keys_have_the_values_of_transformers():
    values = json.loads((VALUES / "qwen3.json").read_text())
    for key in ("head_dim", "rms_norm_eps", "tie_word_embeddings"):
        del values[key]
    config = model_config(values)
    assert (config.head_dim, config.norm_epsilon, config.tied_embeddings) == (128, 1e-6, False)
    values = json.loads((VALUES / "llama.json").read_text())
    del values["num_key_value_heads"], values["head_dim"]
    assert (model_config(values).num_kv_heads, model_config(values).head_dim) == (4, None)


def test_null_is_no_window_and_all_heads_but_a_missing_key_of_mistral_is_not():
    values = json.loads((VALUES / "mistral.json").read_text()) | {"max_position_embeddings": 32_768}
    nulls = {"sliding_window": None, "num_key_value_heads": None}
    config = model_config(values | nulls)
    assert (config.context_length, config.num_kv_heads) == (32_768, 4)
    del values["sliding_window"]
    for use in (True, False):  # which MistralConfig does not read
        with pytest.raises(ValueError, match="sliding_window 4,096 is shorter"):
            model_config(values | {"use_sliding_window": use})


FACTORS = {"short_factor": (1.0, 1.2), "long_factor": (1.0, 3.0)}
SCALINGS = {
    "linear": {"type": "linear", "factor": 2.0},
    "ntk": {"type": "ntk", "factor": 2.0},
    "dynamic": {"type": "dynamic", "factor": 2.0},
    "yarn": {"type": "yarn", "factor": 2.0},
    "llama3": {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {"type": "longrope", "factor": 2.0, **FACTORS},
    "proportional": {"type": "proportional", "partial_rotary_factor": 0.5},
}
ROTATIONS = {name: RopeConfig(scaling=RopeScalingConfig(**keys)) for name, keys in SCALINGS.items()} | {
    "longest": RopeConfig(
        scaling=RopeScalingConfig(
            type="longrope", max_position_embeddings=32, original_max_position_embeddings=16, **FACTORS
        )
    ),
    "partial": RopeConfig(rotary_fraction=0.5, theta_rescale_factor=2.0),
    "partial interpolated": RopeConfig(rotary_fraction=0.5, interpolate_factor=2.0, layout="half"),
    "interpolated": RopeConfig(interpolate_factor=2.0),
    "rescaled": RopeConfig(theta_rescale_factor=2.0, theta=500.0),
}


def test_longrope_within_its_original_length_keeps_both_lists():
    for length, short in ((16, FACTORS["short_factor"]), (17, FACTORS["long_factor"])):
        config = TransformerLMConfig(context_length=length, num_heads=32, rope=ROTATIONS["longest"])
        written = config_values(config)["rope_parameters"]
        assert (written["short_factor"], written["long_factor"]) == (short, FACTORS["long_factor"])


@pytest.mark.parametrize("name", ROTATIONS)
def test_a_saved_model_has_the_same_logits(model_of, tokens, name, tmp_path):
    head_dim = 8 if "partial" in name else 4
    model = model_of(num_layers=1, num_kv_heads=3, head_dim=head_dim, rope=ROTATIONS[name])
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert relative_difference(loaded(tokens), model(tokens)) < TOLERANCE
    plain = model_of(num_layers=1, num_kv_heads=3, head_dim=head_dim)
    assert relative_difference(plain(tokens), model(tokens)) > 100 * TOLERANCE


def test_the_architecture_is_the_one_with_the_options_of_the_model():
    options = {"LlamaForCausalLM": {"qk_norm": False}, "Qwen3ForCausalLM": {}}
    options["Qwen2ForCausalLM"] = {"qkv_bias": True, "qk_norm": False}
    # LlamaConfig needs whole dim / num_heads; a null window is no window.
    options["MistralForCausalLM"] = {"dim": 30, "head_dim": 8, "context_length": 8_192, "qk_norm": False}
    for architecture, changes in options.items():
        config = TransformerLMConfig(**changes, rope=RopeConfig(layout="half"))
        values = config_values(config)
        assert values["architectures"] == [architecture]
        assert model_config(values) == config


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"position": "alibi"}, "model.position=alibi"),
        ({"rope": RopeConfig(xpos=True)}, "model.rope.xpos"),
        ({"rope": RopeConfig(learned_freq=True)}, "model.rope.learned_freq"),
        ({"learned_rotations": "per_token"}, "model.learned_rotations=per_token"),
        ({"qk_norm": True, "qkv_bias": True}, "model.qk_norm with qkv_bias"),
        (
            {"rope": replace(ROTATIONS["yarn"], rotary_fraction=0.5)},
            "model.rope.rotary_fraction with a scaling",
        ),
    ],
)
def test_an_option_without_equivalent_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=f"no equivalent of {named}$"):
        config_values(TransformerLMConfig(**options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}, "Mixtral.* only LlamaForC"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification .* not supp"),
        ({"quantization_config": {"bits": 4}}, "quantized weights are not supported"),
        ({"sliding_window": 32, "use_sliding_window": True}, "sliding_window 32 is shorter .* of 64 tokens"),
        ({"attention_bias": True}, "attention_bias=True is not supported, only False"),
        ({"layer_types": ["linear_attention"] * 2}, "layer_types linear_attention is not supported"),
        ({"logit_scale": 0.5}, "unknown key 'logit_scale'"),
        ({"hidden_size": None}, "hidden_size missing"),
        ({"hidden_size": "32"}, "dim must be a whole number"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor has no effect with scaling type 'none'"),
        ({"rope_parameters": {"rope_type": "mrope"}}, "mrope is not supported"),
        ({"intermediate_size": 25}, r"layers.0.mlp.gate_proj.weight has the shape \(24, 32\), .* \(25, 32\)"),
        ({"num_hidden_layers": 3}, "has no tensor model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "no weight for the tensor model.layers.1.input_layernorm.weight"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(changes, message, tmp_path):
    folder = folder_of("llama", tmp_path)
    change_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


def test_damaged_and_missing_files_are_reported(tmp_path):
    def refusal():
        with pytest.raises(ValueError) as error:
            load_pretrained(folder)
        return str(error.value)

    folder = folder_of("llama", tmp_path / "folder")
    tensors = folder / "model.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1])
    assert "model.safetensors is damaged or incomplete" in refusal()
    save_file({name: value.astype(np.int8) for name, value in load(whole).items()}, tensors)
    assert re.search(r"model\.\S+ is I8, expected one of F32, F16, BF16", refusal())
    tensors.unlink()
    assert "model.safetensors is missing" in refusal()
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin is a pickle, which can execute code" in refusal()
    (folder / "config.json").write_text("{")
    assert "config.json" in refusal()
    (folder / "config.json").unlink()
    assert "is not a folder of a Hugging Face model: it has no config.json" in refusal()


def test_irrelevant_tensors_are_left_out(tmp_path):
    folder = folder_of("llama", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()  # tied
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert relative_difference(load_pretrained(folder)(LOGITS["tokens"]), LOGITS["llama"]) < TOLERANCE


def test_the_byte_tokenizer_encodes_bytes_without_loss(tmp_path, model_of):
    from tokenizers import Tokenizer

    from data.tokenizer import BYTES

    save_pretrained(model_of(num_layers=1), tmp_path, BYTES)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "def f(x):\r\n\t'<0x41> \N{GREEK SMALL LETTER PI} \N{WOMAN}\N{ZERO WIDTH JOINER}' "
    assert tokenizer.get_vocab_size() == 256
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(list(text.encode()), skip_special_tokens=False) == text
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["bos_token_id"], values["eos_token_id"]) == (0, [0])


def test_transformers_finds_the_special_tokens_of_a_tokenizer(tmp_path, model_of):
    from tokenizers import Tokenizer, models

    from data.tokenizer import JsonTokenizer

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<s>": 1, "</s>": 2}, "a"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    save_pretrained(model_of(num_layers=1), tmp_path, JsonTokenizer(tokenizer.to_str()))
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (options["bos_token"], options["eos_token"]) == ("<s>", "</s>")


@pytest.mark.skipif(not STORIES.exists(), reason="needs the checkpoint stories260k")
def test_logits_and_text_of_a_trained_model_equal_those_of_transformers():
    values, model = np.load(VALUES / "stories260k.npz"), load_pretrained(STORIES)
    logits = model(values["tokens"]).numpy()
    assert relative_difference(logits[:, ::2], values["logits"]) < TOLERANCE
    np.testing.assert_array_equal(logits[0, :-1].argmax(axis=-1), values["tokens"][0, 1:])  # greedy
