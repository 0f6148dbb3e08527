from dataclasses import replace

import pytest

from models.config import AxialRopeConfig, AxialScalingConfig, AxialViTConfig, smallest_patch

YARN = AxialScalingConfig(type="yarn", factor=(2.0, 2.0))


def problems(**options):
    with pytest.raises(ValueError) as caught:
        AxialViTConfig(**options)
    return str(caught.value).split("; ")


def rope(**options):
    return AxialRopeConfig(**options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dim": 62}, "dim must be a multiple of num_heads 4, got 62"),
        ({"dim": 24}, "dim / num_heads must be a multiple of 4 to form rotation pairs, got head_dim 6"),
        ({"dim": 24, "position": "mixed"}, "dim / num_heads must be a multiple of 4"),
        (
            {"dim": 20, "position": "none", "learned_rotations": "per_token"},
            "dim / num_heads must be a multiple of 2 to form rotation pairs, got head_dim 5",
        ),
        (
            {"dim": 18, "num_heads": 3, "position": "sinusoidal"},
            "dim must be a multiple of 4 for sinusoidal rows and columns, got 18",
        ),
        ({"image_size": (8,)}, "image_size must be a list such as [64,96], got [8]"),
        ({"image_size": (8, 8, 3), "patch_size": 2}, "image_size must be a list such as [64,96]"),
        ({"image_size": (8, 0), "patch_size": 2}, "image_size must be >= 1, got 0"),
        (
            {"image_size": (8, 12), "patch_size": 8},
            "patch_size must divide both sides of the images, got 8 for 8x12",
        ),
        ({"image_size": (8, 8), "patch_size": 16}, "patch_size must divide both sides of the images"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"pooling": "class_token", "attention": "axial"}, "pooling class_token needs attention=full"),
        ({"learned_rotations": "cumulative"}, "learned_rotations cumulative needs a sequence"),
        ({"position": "mixed", "rope": rope(theta=0.5)}, "rope.theta must be above 1, got 0.5"),
        (
            {"position": "learned", "rope": rope(theta=50.0)},
            "rope.theta is set, but has no effect with position=learned",
        ),
        (
            {"position": "none", "rope": rope(layout="half")},
            "rope.layout is set, but has no effect with position=none",
        ),
        *(
            (
                {"position": "mixed", "rope": rope(**{key: value})},
                f"rope.{key} is set, but has no effect with position=mixed",
            )
            for key, value in (
                ("freqs_for", "pixel"),
                ("coordinates", "unit"),
                ("learned_freq", True),
                ("scaling", YARN),
            )
        ),
        ({"rope": rope(freqs_for="pixel", scaling=YARN)}, "rope.scaling yarn needs theta, got none"),
        ({"rope": rope(interpolate_factor=(2.0, 0.5))}, "rope.interpolate_factor must be >= 1, got 0.5"),
        (
            {"rope": rope(scaling=AxialScalingConfig(type="yarn", factor=(2.0, 0.5)))},
            "rope.scaling.factor must be >= 1, got 0.5",
        ),
    ],
)
def test_invalid_options_raise_with_their_key(options, problem):
    assert problems(**options)[0].startswith(problem)


@pytest.mark.parametrize(
    ("height", "width", "patch"),
    [(8, 8, 2), (28, 28, 4), (32, 32, 4), (64, 64, 8), (6, 10, 2), (9, 15, 3), (100, 20, 10), (3, 6, 3)],
)
def test_patch_size_is_the_smallest_that_makes_at_most_64_patches(height, width, patch):
    assert smallest_patch(height, width) == patch
    assert AxialViTConfig().for_images(height, width, 3, 5).patch_size == patch


@pytest.mark.parametrize("size", [(29, 29), (8, 9), (1, 1), (2, 2), (2, 200)])
def test_images_that_no_patch_size_divides_are_refused(size):
    with pytest.raises(ValueError, match=rf"patch_size must be set: .*{size[0]}x{size[1]}"):
        AxialViTConfig().for_images(*size, 1, 10)


def test_null_values_are_filled_in_from_the_data():
    config = AxialViTConfig(dim=32).for_images(12, 20, 3, 7)
    assert config == AxialViTConfig(
        dim=32, image_size=(12, 20), channels=3, num_classes=7, patch_size=2
    ) and config.grid == (6, 10)
    assert config.for_images(12, 20, 3, 7) == config
    assert AxialViTConfig().grid is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 10}, "num_classes is 10, but the data has 7"),
        ({"channels": 1}, "channels is 1, but the data has 3"),
        ({"image_size": (20, 12)}, r"image_size is \(20, 12\), but the data has \(12, 20\)"),
        ({"patch_size": 5}, "patch_size must divide both sides of the images, got 5 for 12x20"),
    ],
)
def test_values_that_contradict_the_data_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        AxialViTConfig(**options).for_images(12, 20, 3, 7)


def options_of(**options):
    config = AxialViTConfig(dim=32, patch_size=2, rope=rope(**options))
    return config.for_images(12, 20, 3, 7).rotary_options()


def test_null_lengths_of_a_scaling_are_the_patches_of_its_axis():
    rows, columns = options_of(scaling=YARN)
    assert rows["scaling"]["original_max_position_embeddings"] == 3  # 12 pixels, patches of 2, a factor of 2
    assert columns["scaling"]["original_max_position_embeddings"] == 5
    rows, columns = options_of(scaling=AxialScalingConfig(type="dynamic", factor=(2.0, 2.0)))
    assert (rows["target_length"], columns["target_length"]) == (6, 10)
    scaling = replace(YARN, original_max_position_embeddings=(4, 7))
    assert [o["scaling"]["original_max_position_embeddings"] for o in options_of(scaling=scaling)] == [4, 7]
