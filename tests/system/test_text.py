import sys

import pytest

from system.text import ROOT, format_command, format_duration, format_share, format_table


def test_a_command_names_this_python_and_quotes_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "bin" / "python"))
    monkeypatch.chdir(ROOT)
    words = ROOT / "outputs" / "a b", "--prompt", "it's "
    assert format_command("train.py", "name=a b") == ".venv/bin/python train.py 'name=a b'"
    assert format_command("-m", "scripts.generate", *words) == (
        """.venv/bin/python -m scripts.generate 'outputs/a b' --prompt 'it'"'"'s '"""
    )
    monkeypatch.chdir(tmp_path)
    python = ROOT / ".venv" / "bin" / "python"
    assert format_command("train.py") == f"{python} {ROOT / 'train.py'}"
    command = f"PYTHONPATH={ROOT} {python} -m scripts.predict x.png"
    assert format_command("-m", "scripts.predict", tmp_path / "x.png") == command


def test_a_wide_table_has_headers_of_several_lines():
    rows = [{"run": "a", "bits_per_byte": 1.5}, {"run": "outputs/lm", "bits_per_byte": None}]
    assert format_table(rows).splitlines() == [
        "       run  bits per byte",
        "         a         1.5000",
        "outputs/lm              -",
    ]
    wide = [row | {f"{'wide_' * 9}{number}": 0.5 for number in range(4)} for row in rows]
    assert [line.split() for line in format_table(wide).splitlines()[-4:]] == [
        ["per", *["wide"] * 4],
        ["run", "byte", *["wide", "0", "wide", "1", "wide", "2", "wide", "3"]],
        ["a", "1.5000", *["0.5000"] * 4],
        ["outputs/lm", "-", *["0.5000"] * 4],
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3_600, "1:00:00"), (90_061, "25:01:01")]
)
def test_a_duration_is_formatted_in_hours_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text


def test_share_has_a_decimal_from_a_hundred_on():
    assert format_share(6, 8) == "6 of 8 (75 %)"
    assert format_share(99, 99) == "99 of 99 (100 %)"
    assert format_share(1_755, 1_797) == "1,755 of 1,797 (97.7 %)"
