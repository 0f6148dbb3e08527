import re
from dataclasses import replace

import numpy as np
import pytest

from models.config import (
    AxialRopeConfig,
    AxialScalingConfig,
    AxialViTConfig,
    RopeConfig,
    RopeScalingConfig,
    TransformerLMConfig,
    count_weights,
    smallest_patch,
)
from models.transformer import TransformerLM
from models.vit import AxialViT
from rope import RotaryEmbedding

YARN = RopeScalingConfig(type="yarn", factor=4.0)
AXIAL_YARN = AxialScalingConfig(type="yarn", factor=(2.0, 2.0))
SIZES = {"dim": 24, "num_heads": 6, "num_kv_heads": 3}


def rope(**options):
    return {"rope": RopeConfig(**options)}


def axial(**options):
    return {"rope": AxialRopeConfig(**options)}


PAIRS = "must give each head a multiple of {} features, to form rotation pairs; got {} for {} heads"


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
            {"position": "none", **rope(layout="half")},
            "rope.layout is set, but has no effect with position=none",
        ),
        (
            {"learned_rotations": "per_token", **rope(rotary_fraction=0.5)},
            "rope.rotary_fraction must be 1 with learned_rotations, which rotate whole heads",
        ),
        ({"dim": 18, "position": "none", "learned_rotations": "cumulative"}, f"dim {PAIRS.format(2, 3, 6)}"),
        ({"head_dim": 5}, f"head_dim {PAIRS.format(2, 5, 6)}"),
        (  # every problem
            {"dim": 18, "num_kv_heads": 4},
            f"dim {PAIRS.format(2, 3, 6)}; num_kv_heads must divide num_heads 6, got 4",
        ),
        (rope(theta=0.5), "rope.theta must be above 1, got 0.5..."),
        (rope(interpolate_factor=2.0, scaling=YARN), "rope.interpolate_factor ... scaling..."),
        (rope(xpos=True, xpos_scale_base=0.1), "rope cannot be used: context_length must be in [1, 12]..."),
        (rope(scaling=RopeScalingConfig(type="yarn")), "rope.scaling yarn needs ...; missing: factor."),
        (
            rope(scaling=RopeScalingConfig(type="linear", factor=2.0, beta_fast=8.0)),
            "rope.scaling linear does not read the key 'beta_fast'...",
        ),
        (rope(scaling=replace(YARN, beta_fast=0.5)), "rope.scaling.beta_fast must be above beta_slow 1.0..."),
    ],
)
def test_invalid_options_of_a_language_model_raise_with_their_key(options, message):
    pattern = re.escape(message).replace(r"\.\.\.", ".*")
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        TransformerLMConfig(**(SIZES | options))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dim": 24}, f"dim {PAIRS.format(4, 6, 4)}"),
        ({"dim": 20, "position": "none", "learned_rotations": "per_token"}, f"dim {PAIRS.format(2, 5, 4)}"),
        (
            {"dim": 18, "num_heads": 3, "position": "sinusoidal"},
            "dim must be a multiple of 4 for sinusoidal rows and columns, got 18",
        ),
        ({"image_size": (8, 0), "patch_size": 2}, "image_size must be >= 1, got 0"),
        (
            {"image_size": (8, 12), "patch_size": 8},
            "patch_size must divide both sides of the images, got 8 for 8x12",
        ),
        ({"pooling": "class_token", "attention": "axial"}, "pooling class_token needs attention=full"),
        ({"learned_rotations": "cumulative"}, "learned_rotations must be one of none, per_token"),
        ({"position": "mixed", **axial(theta=0.5)}, "rope.theta must be above 1, got 0.5"),
        ({"position": "learned", **axial(theta=50.0)}, "rope.theta is set, but has no effect"),
        ({"position": "mixed", **axial(scaling=AXIAL_YARN)}, "rope.scaling is set, but has no effect"),
        (axial(freqs_for="pixel", scaling=AXIAL_YARN), "rope.scaling yarn needs theta, which only language"),
        (axial(interpolate_factor=(2.0, 0.5)), "rope.interpolate_factor must be >= 1, got 0.5"),
        (axial(scaling=replace(AXIAL_YARN, factor=(2.0, 0.5))), "rope.scaling.factor must be >= 1, got 0.5"),
    ],
)
def test_invalid_options_of_a_vision_transformer_raise_with_their_key(options, problem):
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        AxialViTConfig(**options)


@pytest.mark.parametrize(
    ("cls", "options", "problem"),
    [
        (RopeScalingConfig, {"factor": 2.0}, "factor has no effect with scaling type 'none', got 2.0"),
        (AxialRopeConfig, {"freqs_for": "pixel", "theta": 9.0}, "theta has no effect with freqs_for 'pixel'"),
        (AxialRopeConfig, {"max_freq": 20.0}, "max_freq has no effect with freqs_for 'lang', got 20.0"),
        (AxialRopeConfig, {"interpolate_factor": (2.0,)}, "interpolate_factor must be a list such as"),
        (
            RopeConfig,
            {"interpolate_factor": 3.0, "theta_rescale_factor": 4.0},
            "theta_rescale_factor cannot be combined with interpolate_factor, got 4 and 3: set one",
        ),
    ],
)
def test_contradicting_options_raise(cls, options, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        cls(**options)


def test_a_proportional_scaling_applies_within_the_rotated_fraction_of_a_head():
    scaling = RopeScalingConfig(type="proportional", partial_rotary_factor=0.5)
    options = rope(rotary_fraction=0.5, scaling=scaling)
    config = TransformerLMConfig(dim=48, num_heads=3, num_kv_heads=3, **options)
    rotary = RotaryEmbedding(**config.rotary_options())  # 8 of 16 features
    np.testing.assert_allclose(rotary.frequencies, [1, 0.1, 0, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "scaling", "target_length"),
    [
        ({"type": "yarn"}, {"original_max_position_embeddings": 64}, None),
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


def test_null_lengths_of_an_axial_scaling_are_the_patches_of_its_axis():
    def lengths(key, **scaling):
        config = AxialViTConfig(dim=32, patch_size=2, **axial(scaling=replace(AXIAL_YARN, **scaling)))
        both = config.for_images(12, 20, 3, 7).rotary_options()  # 6 x 10 patches
        return [{**options, **options["scaling"]}[key] for options in both]

    original = "original_max_position_embeddings"
    assert lengths(original) == [3, 5]  # a factor of 2
    assert lengths(original, original_max_position_embeddings=(4, 7)) == [4, 7]
    assert lengths("target_length", type="dynamic") == [6, 10]


def test_coordinates_are_patches_for_lang_and_unit_for_pixel():
    assert AxialRopeConfig().counts_patches
    assert not AxialRopeConfig(freqs_for="pixel").counts_patches
    assert not AxialRopeConfig(coordinates="unit").counts_patches
    assert AxialRopeConfig(freqs_for="pixel", coordinates="patches").counts_patches


@pytest.mark.parametrize(
    ("height", "width", "patch"),
    [(8, 8, 2), (28, 28, 4), (64, 64, 8), (6, 10, 2), (9, 15, 3), (100, 20, 10), (3, 6, 3)],
)
def test_patch_size_is_the_smallest_that_makes_at_most_64_patches(height, width, patch):
    assert smallest_patch(height, width) == patch


@pytest.mark.parametrize("size", [(29, 29), (1, 1), (2, 2), (2, 200)])
def test_images_that_no_patch_size_divides_are_refused(size):
    with pytest.raises(ValueError, match=rf"patch_size must be set: .*{size[0]}x{size[1]}"):
        AxialViTConfig().for_images(*size, 1, 10)


def test_null_values_are_filled_in_from_the_data():
    config = AxialViTConfig(dim=32).for_images(12, 20, 3, 7)
    expected = {"image_size": (12, 20), "channels": 3, "num_classes": 7, "patch_size": 2}
    assert config == AxialViTConfig(dim=32, **expected)
    assert (config.grid, AxialViTConfig().grid) == ((6, 10), None)
    assert config.for_images(12, 20, 3, 7) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 10}, "num_classes is 10, but the data has 7"),
        ({"image_size": (20, 12)}, r"image_size is \(20, 12\), but the data has \(12, 20\)"),
        ({"patch_size": 5}, "patch_size must divide both sides of the images, got 5 for 12x20"),
    ],
)
def test_values_that_contradict_the_data_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        AxialViTConfig(**options).for_images(12, 20, 3, 7)


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
