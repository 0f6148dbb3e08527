"""Writes the tables of docs/configuration.md from configs/: `python -m docs.configuration`."""

import re
from collections.abc import Iterator
from pathlib import Path

from configs.compose import compose
from configs.help import CONFIGS, comments, config_groups
from configs.schema import flatten
from system.files import write_text
from system.text import format_value

PAGE = Path(__file__).with_name("configuration.md")
MARK = "<!-- The rest of this page is written by python -m docs.configuration -->\n"
GROUPS = ("experiment", "run", "model", "data", "optimizer", "distribute")
TEXT = ("python_stdlib", "text_files", "json_lines", "parquet", "tfds_text", "passkey")
IMAGES = ("digits", "image_folder", "tfds_images")


def page() -> str:
    """The page with current tables."""
    prose, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    return prose + mark + "\n".join(table_lines()) + "\n"


def table_lines() -> Iterator[str]:
    files, entries = config_groups(), read_entries()
    for group in GROUPS:
        yield f"\n### {group.capitalize()}"
        if group in files:
            yield f"\n| `{group}=` | |\n|---|---|"
        for name in files.get(group, []):
            text = (CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8")
            summary = " ".join(re.findall(r"^# (?!@|python )(.*)", text, re.MULTILINE))
            yield f"| `{name}` | {summary} |"
        if group in entries:
            yield "\n| key | default | |\n|---|---|---|"
        for key, variants in entries.get(group, {}).items():
            for (value, comment), places in variants.items():
                suffix = f" ({', '.join(places)})" if group in ("model", "data") else ""
                yield f"| `{key}` | `{value}` | {comment}{suffix} |".replace("*", r"\*")


def read_entries() -> dict[str, dict[str, dict[tuple[str, str], dict[str, None]]]]:
    """Models or data that have each key of a run, by group, key, and its default and comment."""
    entries: dict = {}
    for name in (*TEXT, *IMAGES):
        config = compose([*["experiment=vit"] * (name in IMAGES), f"data={name}"])
        comment_of = dict(comments(config))
        for key, value in flatten(config).items():
            group = key.partition(".")[0] if "." in key else "run"
            place = {"model": "vit" if name in IMAGES else "lm", "data": name}.get(group)
            if place or name == TEXT[0]:  # experiment=vit sets other values
                variant = format_value(value), comment_of[key]
                entries.setdefault(group, {}).setdefault(key, {}).setdefault(variant, {})[place] = None
    return entries


if __name__ == "__main__":
    write_text(PAGE, page())
