import subprocess
import sys

import pytest

from configs.builder import build
from rope.config import AxialRopeConfig, AxialScalingConfig, RopeConfig, RopeScalingConfig

YARN = RopeScalingConfig(type="yarn", factor=4.0)


def problems(**options):
    return [f"{key} {message}" for key, message in RopeConfig(**options).problems()]


def scaling_problems(**options):
    return [f"{key} {message}" for key, message in RopeScalingConfig(**options).problems()]


def test_configurations_and_scalings_import_no_tensorflow():
    code = "import sys, rope.config, rope.options, rope.scaling; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_scaling_becomes_the_dict_of_an_embedding():
    assert RopeScalingConfig().as_dict() is None
    assert YARN.as_dict() == {"rope_type": "yarn", "factor": 4.0}
    filled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert YARN.as_dict(original_length=64) == filled
    own = RopeScalingConfig(type="yarn", factor=4.0, original_max_position_embeddings=32)
    assert own.as_dict(original_length=64)["original_max_position_embeddings"] == 32
    dynamic = RopeScalingConfig(type="dynamic", factor=2.0, target_length=128)
    assert dynamic.as_dict() == {"rope_type": "dynamic", "factor": 2.0}
    linear = RopeScalingConfig(type="linear", factor=2.0)
    assert linear.as_dict(original_length=64) == {"rope_type": "linear", "factor": 2.0}


def test_a_scaling_tells_which_keys_it_reads():
    assert YARN.reads("original_max_position_embeddings") and not YARN.reads("target_length")
    assert RopeScalingConfig(type="dynamic", factor=2.0).reads("target_length")
    assert not RopeScalingConfig().reads("factor")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"type": "none", "factor": 2.0}, "factor has no effect with scaling type 'none', got 2.0"),
        (
            {"type": "linear", "factor": 2.0, "beta_fast": 8.0},
            "beta_fast has no effect with scaling type 'linear'",
        ),
        ({"type": "linear", "factor": 2.0, "target_length": 8}, "target_length has no effect"),
        ({"type": "linear"}, "factor is missing: scaling type 'linear' needs it"),
        ({"type": "yarn", "factor": 2.0, "beta_fast": 0.5}, "beta_fast must be above beta_slow 1.0, got 0.5"),
        ({"type": "yarn", "factor": 2.0, "mscale": 1.0}, "mscale and mscale_all_dim go together"),
        (
            {"type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.0},
            "attention_factor replaces mscale",
        ),
        (
            {"type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0},
            "high_freq_factor must be above low_freq_factor 4.0, got 1.0",
        ),
        (
            {"type": "longrope", "short_factor": (1.0,), "long_factor": (1.0,)},
            "attention_factor or factor or max_position_embeddings: give exactly one of the three, got none",
        ),
        (
            {"type": "longrope", "short_factor": (1.0,), "long_factor": (1.0, 2.0), "factor": 2.0},
            "long_factor must be as long as short_factor, got 2 and 1",
        ),
        ({"type": "proportional"}, "partial_rotary_factor is missing"),
    ],
)
def test_keys_that_a_scaling_cannot_use_are_problems(options, problem):
    (found,) = scaling_problems(**options)
    assert found.startswith(problem)


def test_valid_scalings_have_no_problems():
    for options in (
        {"type": "none"},
        {"type": "yarn", "factor": 4.0},
        {"type": "dynamic", "factor": 2.0},
        {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"type": "longrope", "short_factor": (1.0,), "long_factor": (2.0,), "factor": 2.0},
        {"type": "proportional", "partial_rotary_factor": 0.25},
    ):
        assert scaling_problems(**options) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"interpolate_factor": 2.0, "scaling": YARN}, "interpolate_factor is a scaling of its own"),
        ({"theta_rescale_factor": 2.0, "scaling": YARN}, "theta_rescale_factor is a scaling of its own"),
        ({"xpos_scale_base": 64.0}, "xpos_scale_base has no effect without xpos"),
        (
            {
                "rotary_fraction": 0.5,
                "scaling": RopeScalingConfig(type="proportional", partial_rotary_factor=0.5),
            },
            "rotary_fraction and scaling.type 'proportional' both",
        ),
    ],
)
def test_options_that_contradict_each_other_are_problems(options, problem):
    (found,) = problems(**options)
    assert found.startswith(problem)


def test_the_command_line_reaches_the_scaling():
    config, found = build(RopeConfig, {"xpos": True, "scaling.type": "yarn", "scaling.factor": 4})
    assert found == [] and config == RopeConfig(xpos=True, scaling=YARN)
    _, found = build(RopeConfig, {"scaling.type": "yarm", "scaling.facto": 4, "rotary_fraction": 0})
    assert sorted(found) == [
        "rotary_fraction must be <= 1.0 and > 0.0, got 0.0",
        "scaling.type must be one of none, linear, ntk, dynamic, yarn, llama3, longrope, proportional; "
        "got 'yarm'; did you mean 'yarn'?",
        "unknown key 'scaling.facto'; did you mean 'scaling.factor'?",
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"freqs_for": "pixel", "theta": 100.0}, "theta has no effect with freqs_for 'pixel', got 100.0"),
        ({"max_freq": 20.0}, "max_freq has no effect with freqs_for 'lang', got 20.0"),
        ({"interpolate_factor": (2.0,)}, "interpolate_factor must be two numbers >= 1, for rows and for"),
        ({"interpolate_factor": (2.0, 0.5)}, "interpolate_factor must be two numbers >= 1"),
        ({"interpolate_factor": (1.0, 2.0, 1.0)}, "interpolate_factor must be two numbers >= 1"),
        ({"interpolate_factor": (1.0, float("nan"))}, "interpolate_factor must be two numbers >= 1"),
        (
            {
                "interpolate_factor": (1.0, 2.0),
                "scaling": AxialScalingConfig(type="yarn", factor=(2.0, 2.0)),
            },
            "interpolate_factor is a scaling of its own",
        ),
    ],
)
def test_options_of_a_grid_that_nothing_would_read_are_problems(options, problem):
    (found,) = (f"{key} {message}" for key, message in AxialRopeConfig(**options).problems())
    assert found.startswith(problem)


def test_coordinates_are_patches_for_lang_and_unit_for_pixel():
    assert AxialRopeConfig().counts_patches
    assert not AxialRopeConfig(freqs_for="pixel").counts_patches
    assert not AxialRopeConfig(coordinates="unit").counts_patches
    assert AxialRopeConfig(freqs_for="pixel", coordinates="patches").counts_patches


@pytest.mark.parametrize("pair", [(2.0,), (2.0, 0.5), (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("key", ["factor", "original_max_position_embeddings"])
def test_an_axial_scaling_takes_pairs(key, pair):
    scaling = AxialScalingConfig(**{"type": "yarn", "factor": (2.0, 3.0), key: pair})
    ((found, message),) = scaling.problems()
    assert found == key
    assert message.startswith("must be two numbers >= 1, of rows and of columns, such as [")
    assert message.endswith(f"got {list(pair)}")


def test_an_axial_scaling_is_one_of_each_axis():
    scaling = AxialScalingConfig(
        type="yarn", factor=(2.0, 3.0), original_max_position_embeddings=(5, 8), beta_fast=7.0
    )
    assert not list(scaling.problems())
    assert [scaling.of_axis(axis) for axis in (0, 1)] == [
        RopeScalingConfig(type="yarn", factor=2.0, original_max_position_embeddings=5, beta_fast=7.0),
        RopeScalingConfig(type="yarn", factor=3.0, original_max_position_embeddings=8, beta_fast=7.0),
    ]
    ((key, message),) = AxialScalingConfig(factor=(2.0, 3.0)).problems()
    assert (key, message) == ("factor", "has no effect with scaling type 'none', got (2.0, 3.0)")
