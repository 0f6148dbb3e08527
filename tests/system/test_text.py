"""Formatting of durations."""

import pytest

from system.text import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3_600, "1:00:00"), (90_061, "25:01:01")]
)
def test_a_duration_is_formatted_in_hours_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text
