import pytest

from models.config import (
    AxialRopeConfig,
    AxialScalingConfig,
    AxialViTConfig,
    RopeConfig,
    RopeScalingConfig,
    TransformerLMConfig,
)

YARN = RopeScalingConfig(type="yarn", factor=4.0)


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
    config = RopeScalingConfig(factor=4.0, **options)
    assert config.rotary_options(256) == {"scaling": expected, "target_length": target_length}


def test_scaling_none_has_no_options():
    assert RopeScalingConfig().rotary_options(256) == {"scaling": None, "target_length": None}


def test_scaling_config_knows_which_keys_it_reads():
    assert YARN.reads("original_max_position_embeddings") and not YARN.reads("target_length")
    assert RopeScalingConfig(type="dynamic", factor=2.0).reads("target_length")
    assert not RopeScalingConfig().reads("factor")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"type": "linear", "factor": 2.0, "beta_fast": 8.0}, " linear does not read the key 'beta_fast'"),
        ({"type": "linear", "factor": 2.0, "target_length": 8}, " linear does not depend on a target_length"),
        ({"type": "linear"}, " linear needs factor; missing: factor"),
        ({"type": "linear", "factor": 0.5}, ".factor must be >= 1, got 0.5"),
        (
            {"type": "yarn", "factor": 2.0, "beta_fast": 0.5},
            ".beta_fast must be above beta_slow 1.0, got 0.5",
        ),
        ({"type": "yarn", "factor": 2.0, "mscale": 1.0}, ".mscale and mscale_all_dim go together"),
        (
            {"type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.0},
            ".attention_factor replaces",
        ),
        (
            {"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0},
            ".high_freq_factor must be above low_freq_factor 4.0, got 1.0",
        ),
        (
            {
                "type": "longrope",
                "short_factor": (1.0,) * 16,
                "long_factor": (2.0,) * 16,
                "original_max_position_embeddings": 64,
            },
            " longrope needs factor, max_position_embeddings or attention_factor, got none",
        ),
        (
            {"type": "longrope", "factor": 2.0, "short_factor": (1.0,), "long_factor": (2.0,) * 16},
            ".short_factor must hold 16 positive numbers",
        ),
        ({"type": "proportional"}, " proportional needs partial_rotary_factor"),
    ],
)
def test_invalid_scaling_raises_with_its_key(options, problem):
    rope = RopeConfig(scaling=RopeScalingConfig(**options))
    with pytest.raises(ValueError) as caught:
        TransformerLMConfig(rope=rope)
    assert str(caught.value).startswith(f"rope.scaling{problem}")


def test_valid_scalings_are_accepted():
    for options in (
        {"type": "none"},
        {"type": "yarn", "factor": 4.0},
        {"type": "dynamic", "factor": 2.0},
        {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"type": "longrope", "short_factor": (1.0,) * 16, "long_factor": (2.0,) * 16, "factor": 2.0},
        {"type": "proportional", "partial_rotary_factor": 0.25},
    ):
        TransformerLMConfig(rope=RopeConfig(scaling=RopeScalingConfig(**options)))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"theta": 0.5}, "rope.theta must be above 1, got 0.5"),
        ({"interpolate_factor": 0.5}, "rope.interpolate_factor must be >= 1, got 0.5"),
        ({"interpolate_factor": 2.0, "scaling": YARN}, "rope.interpolate_factor .* scaling"),
        ({"theta_rescale_factor": 2.0, "scaling": YARN}, "rope.theta_rescale_factor .* scaling"),
        ({"xpos_scale_base": 64.0}, "rope.xpos_scale_base has no effect without"),
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
            {
                "rotary_fraction": 0.5,
                "scaling": RopeScalingConfig(type="proportional", partial_rotary_factor=0.5),
            },
            "rotary_fraction and scaling.type 'proportional' both",
        ),
        (
            AxialRopeConfig,
            {"freqs_for": "pixel", "theta": 100.0},
            "theta has no effect with freqs_for 'pixel', got 100.0",
        ),
        (AxialRopeConfig, {"max_freq": 20.0}, "max_freq has no effect with freqs_for 'lang', got 20.0"),
        (AxialRopeConfig, {"interpolate_factor": (2.0,)}, "interpolate_factor must be a list such as"),
        (
            AxialRopeConfig,
            {"interpolate_factor": (1.0, 2.0, 1.0)},
            "interpolate_factor must be a list such as",
        ),
        (AxialRopeConfig, {"interpolate_factor": (1.0, float("nan"))}, "interpolate_factor must be a finite"),
        (AxialScalingConfig, {"type": "yarn", "factor": (2.0,)}, "factor must be a list such as"),
        (
            AxialScalingConfig,
            {"type": "yarn", "factor": (2.0, 2.0), "original_max_position_embeddings": (8, 8, 8)},
            "original_max_position_embeddings must be a list such as",
        ),
    ],
)
def test_contradicting_options_raise(cls, options, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        cls(**options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"interpolate_factor": (2.0, 0.5)}, "rope.interpolate_factor must be >= 1, got 0.5"),
        (
            {"scaling": AxialScalingConfig(type="yarn", factor=(2.0, 0.5))},
            "rope.scaling.factor must be >= 1, got 0.5",
        ),
        (
            {
                "interpolate_factor": (1.0, 2.0),
                "scaling": AxialScalingConfig(type="yarn", factor=(2.0, 2.0)),
            },
            "rope.interpolate_factor .* scaling",
        ),
    ],
)
def test_invalid_options_of_an_axis_raise_with_their_key(options, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        AxialViTConfig(rope=AxialRopeConfig(**options))


def test_coordinates_are_patches_for_lang_and_unit_for_pixel():
    assert AxialRopeConfig().counts_patches
    assert not AxialRopeConfig(freqs_for="pixel").counts_patches
    assert not AxialRopeConfig(coordinates="unit").counts_patches
    assert AxialRopeConfig(freqs_for="pixel", coordinates="patches").counts_patches


def test_axial_scaling_has_a_scaling_for_each_axis():
    scaling = AxialScalingConfig(
        type="yarn", factor=(2.0, 3.0), original_max_position_embeddings=(5, 8), beta_fast=7.0
    )
    assert [scaling.for_axis(axis) for axis in (0, 1)] == [
        RopeScalingConfig(type="yarn", factor=2.0, original_max_position_embeddings=5, beta_fast=7.0),
        RopeScalingConfig(type="yarn", factor=3.0, original_max_position_embeddings=8, beta_fast=7.0),
    ]
