"""Results equal to those of other libraries, stored by `make_peer_values.py`."""

import numpy as np
import pytest

import rope
from rope.huggingface import rotary_arguments
from tests.rope import make_peer_values as peers

ROWS = peers.table_rows()


@pytest.fixture(scope="module")
def stored():
    with np.load(peers.VALUES) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_each_row_of_the_migration_table_equals_the_other_library(stored, row):
    _, their_code, code = ROWS[row]
    assert stored[f"row/{row}/code"] == their_code, "run make_peer_values.py"
    names = {name: getattr(rope, name) for name in rope.__all__}
    results = eval(code, {**names, **peers.inputs(), "config": peers.config_json("llama3")})
    results = results if isinstance(results, tuple) else (results,)
    expected = [stored[f"row/{row}/{index}"] for index in range(len(results))]
    if "use_xpos" in code:  # the scales have another center, which cancels in the scores
        results, expected = ([q @ np.swapaxes(k, -1, -2)] for q, k in (np.array(results), expected))
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, atol=1e-5)  # float32


@pytest.mark.parametrize("name", peers.CONFIGS)
def test_a_config_json_gives_the_rotation_of_its_model(stored, name):
    rotary = rope.RotaryEmbedding(**rotary_arguments(peers.config_json(name), target_length=peers.LENGTH))
    expected = stored[f"config/{name}"]
    rotated = rotary.rotate_queries_or_keys(peers.features(expected.shape[-1]))[:, :, :: peers.STEP]
    np.testing.assert_allclose(rotated, expected, atol=1e-4)  # float32 angles of up to 300 rad


def test_a_config_json_is_extended_by_length_or_by_a_factor():
    assert rotary_arguments(peers.config_json("dynamic"))["target_length"] == 256
    assert rotary_arguments(peers.config_json("llama3"))["target_length"] is None
    extended = rope.RotaryEmbedding.from_hf_config(peers.config_json("default"), interpolate_factor=2.0)
    layer = rope.RoPE(**rotary_arguments(peers.config_json("yarn")))
    assert layer.get_config()["scaling"]["factor"] == 4
    assert extended.theta == 700 and extended.interpolate_factor == 2 and extended.layout == "half"
    partial = rope.RotaryEmbedding.from_hf_config(peers.config_json("partial"), interpolate_factor=2.0)
    expected = rope.RotaryEmbedding.from_hf_config(peers.config_json("partial")).frequencies / 2
    np.testing.assert_allclose(partial.frequencies, expected)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}, "^mrope is not supported"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {}}},
            r"differ between full_attention, sliding_attention: .*\['full_attention'\]",
        ),
        ({"qk_rope_head_dim": 64}, "qk_rope_head_dim is not supported"),
        ({"model_type": "nanochat"}, "model_type nanochat is not supported: .* opposite angles"),
        ({"rotary_dim": 64}, r"rotary_dim is not supported.*RotaryEmbedding\(rotary_dim\)"),
        ({"text_config": {}}, r"pass config\['text_config'\]"),
        ({"num_attention_heads": None}, "needs head_dim, or hidden_size and num_attention_heads"),
        ({"rope_scaling": {"rope_type": "yrn", "factor": 2.0}}, "did you mean 'yarn'"),
    ],
)
def test_a_config_json_that_one_embedding_cannot_express_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        rotary_arguments({"hidden_size": 24, "num_attention_heads": 3, **keys})


def test_rope_scaling_replaces_rope_parameters_as_in_transformers_5():
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 700.0}}
    arguments = rotary_arguments({"head_dim": 8, **both})
    assert arguments["theta"] == 10_000 and arguments["scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert rotary_arguments({"head_dim": 8, **both, "rope_scaling": None})["theta"] == 700


def test_a_config_object_is_refused():
    with pytest.raises(TypeError, match=r"got object. Use config.to_dict\(\)"):
        rotary_arguments(object())
