import re

import pytest

from models.config import (
    AxialRopeConfig,
    AxialScalingConfig,
    AxialViTConfig,
    RopeConfig,
    RopeScalingConfig,
    TransformerLMConfig,
    count_weights,
)
from models.transformer import TransformerLM
from models.vit import AxialViT

YARN = RopeScalingConfig(type="yarn", factor=4.0)
SIZES = {"dim": 24, "num_heads": 6, "num_kv_heads": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 26, "position": "alibi"}, "dim must be a multiple of num_heads 6, got 26"),
        ({"num_kv_heads": 12}, "num_kv_heads must divide num_heads 6, got 12"),
        (
            {"dim": 15, "num_heads": 3, "position": "sinusoidal"},
            "dim must be even for sinusoidal positions, got 15",
        ),
        (
            {"position": "none", "rope": RopeConfig(theta=500.0)},
            "rope.theta is set, but has no effect with position=none",
        ),
        (
            {"position": "none", "rope": RopeConfig(xpos=True)},
            "rope.xpos is set, but has no effect with position=none",
        ),
        (
            {"position": "none", "rope": RopeConfig(layout="half")},
            "rope.layout is set, but has no effect with position=none",
        ),
        (
            {"learned_rotations": "per_token", "rope": RopeConfig(rotary_fraction=0.5)},
            "rope.rotary_fraction must be 1 with learned_rotations, which rotate whole heads",
        ),
        (
            {"dim": 18, "position": "none", "learned_rotations": "cumulative"},
            "dim / num_heads must be a multiple of 2 to form rotation pairs, got head_dim 3 "
            "(dim 18 / num_heads 6)",
        ),
        ({"head_dim": 5}, "head_dim must be a multiple of 2 to form rotation pairs, got 5"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"num_layer": 2}, "num_layer is no such option"),
        (
            {"dim": 18, "num_kv_heads": 4},
            "dim / num_heads must be a multiple of 2 to form rotation pairs, got head_dim 3 "
            "(dim 18 / num_heads 6); "
            "num_kv_heads must divide num_heads 6, got 4",
        ),
    ],
)
def test_invalid_options_raise_with_every_problem(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TransformerLMConfig(**(SIZES | options))


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 18, "position": "none"},  # odd heads, but nothing is rotated
        {"dim": 15, "num_heads": 3, "position": "learned"},
    ],
)
def test_valid_options_are_accepted(options):
    TransformerLMConfig(**(SIZES | options))


@pytest.mark.parametrize(
    ("options", "scaling", "target_length"),
    [
        ({"type": "yarn"}, {"original_max_position_embeddings": 64}, None),
        (
            {"type": "yarn", "original_max_position_embeddings": 32},
            {"original_max_position_embeddings": 32},
            None,
        ),
        ({"type": "dynamic", "target_length": 128}, {"original_max_position_embeddings": 64}, 128),
        ({"type": "dynamic"}, {"original_max_position_embeddings": 64}, 256),
        ({"type": "linear"}, {}, None),
    ],
)
def test_null_lengths_of_a_scaling_follow_from_the_context(options, scaling, target_length):
    expected = {"rope_type": options["type"], "factor": 4.0} | scaling
    rope = RopeConfig(scaling=RopeScalingConfig(factor=4.0, **options))
    arguments = TransformerLMConfig(context_length=256, rope=rope).rotary_options()
    assert (arguments["scaling"], arguments["target_length"]) == (expected, target_length)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"theta": 0.5}, "rope.theta must be above 1, got 0.5"),
        ({"interpolate_factor": 0.5}, "rope.interpolate_factor must be >= 1, got 0.5"),
        ({"interpolate_factor": 2.0, "scaling": YARN}, "rope.interpolate_factor .* scaling"),
        ({"theta_rescale_factor": 2.0, "scaling": YARN}, "rope.theta_rescale_factor .* scaling"),
        ({"theta_rescale_factor": 1e300}, "rope.scaling ntk must stay in the range of float64"),
        ({"xpos_scale_base": 64.0}, "rope.xpos_scale_base has no effect without"),
        ({"xpos": True, "xpos_scale_base": 0.1}, "rope cannot be used: xpos_max_length must be in"),
        ({"rotary_fraction": 0.42}, "rope cannot be used: the rotated part .* must be even"),
        (
            {"scaling": RopeScalingConfig(type="linear", factor=2.0, beta_fast=8.0)},
            "rope.scaling linear does not read the key 'beta_fast'",
        ),
        (
            {"scaling": RopeScalingConfig(type="linear", factor=2.0, target_length=8)},
            "rope.scaling linear does not depend on a target_length",
        ),
        ({"scaling": RopeScalingConfig(type="linear")}, "rope.scaling linear needs factor"),
        (
            {"scaling": RopeScalingConfig(type="yarn", factor=2.0, beta_fast=0.5)},
            "rope.scaling.beta_fast must be above beta_slow 1.0, got 0.5",
        ),
    ],
)
def test_invalid_rotary_options_raise_with_their_key(options, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        TransformerLMConfig(rope=RopeConfig(**options))


@pytest.mark.parametrize(
    ("cls", "options", "problem"),
    [
        (RopeConfig, {"rotary_fraction": 2.0}, "rotary_fraction must be <= 1, got 2"),
        (RopeScalingConfig, {"factor": 2.0}, "factor has no effect with scaling type 'none', got 2.0"),
        (RopeScalingConfig, {"type": "yarm"}, "type must be one of none, .* got 'yarm'; did you mean 'yarn'"),
        (
            RopeConfig,
            {"rotary_fraction": 0.5, "scaling": RopeScalingConfig(type="proportional")},
            "rotary_fraction and scaling.type 'proportional' both",
        ),
        (
            AxialRopeConfig,
            {"freqs_for": "pixel", "theta": 100.0},
            "theta has no effect with freqs_for 'pixel'",
        ),
        (AxialRopeConfig, {"max_freq": 20.0}, "max_freq has no effect with freqs_for 'lang', got 20.0"),
        (AxialRopeConfig, {"interpolate_factor": (2.0,)}, "interpolate_factor must be a list such as"),
        (AxialRopeConfig, {"interpolate_factor": (1.0, float("nan"))}, "interpolate_factor must be a finite"),
        (AxialScalingConfig, {"type": "yarn", "factor": (2.0,)}, "factor must be a list such as"),
    ],
)
def test_contradicting_options_raise(cls, options, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        cls(**options)


def test_coordinates_are_patches_for_lang_and_unit_for_pixel():
    assert AxialRopeConfig().counts_patches
    assert not AxialRopeConfig(freqs_for="pixel").counts_patches
    assert not AxialRopeConfig(coordinates="unit").counts_patches
    assert AxialRopeConfig(freqs_for="pixel", coordinates="patches").counts_patches


@pytest.mark.parametrize(
    "config",
    [
        TransformerLMConfig(vocab_size=300, dim=24, num_heads=6, num_kv_heads=2, mlp_dim=40, num_layers=3),
        TransformerLMConfig(dim=24, num_heads=2, head_dim=16, num_kv_heads=1, mlp_dim=40, num_layers=2),
        AxialViTConfig(dim=24, num_heads=2, mlp_dim=40, num_layers=3).for_images(12, 8, 3, 5),
    ],
)
def test_the_estimated_number_of_weights_is_at_most_that_of_the_model(config):
    model = (AxialViT if isinstance(config, AxialViTConfig) else TransformerLM)(config)
    assert 0.95 < count_weights(config) / model.count_params() <= 1
