import re

import pytest

from models.config import RopeConfig, TransformerLMConfig

SIZES = {"dim": 24, "num_heads": 6, "num_kv_heads": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 26, "position": "alibi"}, "dim must be a multiple of num_heads 6, got 26"),
        (
            {"dim": 18},
            "dim / num_heads must be a multiple of 2 to form rotation pairs, got head_dim 3 "
            "(dim 18 / num_heads 6)",
        ),
        ({"num_kv_heads": 4}, "num_kv_heads must divide num_heads 6, got 4"),
        ({"num_kv_heads": 12}, "num_kv_heads must divide num_heads 6, got 12"),
        (
            {"dim": 15, "num_heads": 3, "position": "sinusoidal"},
            "dim must be even for sinusoidal positions, got 15",
        ),
        (
            {"position": "none", "rope": RopeConfig(theta=500.0)},
            "rope.theta is set, but has no effect with position=none",
        ),
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
        {},
        {"num_kv_heads": 1},
        {"num_kv_heads": 6},
        {"rope": RopeConfig(interpolate_factor=2.0)},
        {"dim": 18, "position": "none"},  # odd heads, but nothing is rotated
        {"dim": 15, "num_heads": 3, "position": "learned"},
    ],
)
def test_valid_options_are_accepted(options):
    TransformerLMConfig(**(SIZES | options))
