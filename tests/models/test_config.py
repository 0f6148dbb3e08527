import pytest

from models.config import TransformerLMConfig
from rope.config import RopeConfig

SIZES = {"dim": 24, "num_heads": 6, "num_kv_heads": 3}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dim": 26, "position": "alibi"}, ("dim", "must be a multiple of num_heads 6, got 26")),
        (
            {"dim": 18},
            (
                "dim",
                "/ num_heads must be even to form rotation pairs, got head_dim 3 (dim 18 / num_heads 6)",
            ),
        ),
        ({"num_kv_heads": 4}, ("num_kv_heads", "must divide num_heads 6, got 4")),
        ({"num_kv_heads": 12}, ("num_kv_heads", "must divide num_heads 6, got 12")),
        (
            {"dim": 15, "num_heads": 3, "position": "sinusoidal"},
            ("dim", "must be even for sinusoidal positions, got 15"),
        ),
        (
            {"position": "none", "rope": RopeConfig(theta=500.0)},
            ("rope", "is set but position is 'none'; only position=rotary reads it"),
        ),
    ],
)
def test_each_broken_rule_is_told(options, problem):
    assert list(TransformerLMConfig(**(SIZES | options)).problems()) == [problem]


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
def test_what_is_allowed_has_no_problems(options):
    assert list(TransformerLMConfig(**(SIZES | options)).problems()) == []


def test_all_broken_rules_are_told_together():
    config = TransformerLMConfig(dim=18, num_heads=6, num_kv_heads=4)
    assert [key for key, _ in config.problems()] == ["dim", "num_kv_heads"]
