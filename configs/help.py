"""Text of `python train.py --help`: keys with their values and their comments in the YAML files."""

import re
from collections.abc import Iterator
from pathlib import Path

from configs.schema import explain_unknown, flatten
from system.errors import ConfigError
from system.text import format_entries, format_value

CONFIGS = Path(__file__).resolve().parent
COMMENTED_KEY = re.compile(r"^( *)(\w+):[^#\n]*(?:# *(.*))?", re.MULTILINE)
KIND = re.compile(r"^(architecture|source): (\w+)", re.MULTILINE)
COMMON, ALL = "common", "all"
COMMON_KEYS = """
name output_dir init_from context_length num_steps batch_size accumulation_steps seed precision max_minutes
eval_every sample_every checkpoint_every
optimizer.name optimizer.learning_rate optimizer.warmup_steps optimizer.weight_decay
model.dim model.num_layers model.num_heads model.patch_size model.position model.dropout
model.rope.theta model.rope.interpolate_factor model.rope.scaling.type
data.path data.tfds_name data.image_size data.held_out
"""
USAGE = """\
Trains a language model or a vision transformer with rotary position embeddings.

  python train.py                                    train a small language model on Python source
  python train.py name=wide model.dim=256            set keys; the same command resumes the run
  python train.py name=docs data=text_files data.path='docs/**/*.md'   train on your own text
  python train.py experiment=vit                     train a vision transformer on digits
  python train.py -m model.position=rotary,learned   a sweep: one run for each value
  python train.py --cfg job experiment=shakespeare   print the configuration, unchecked
  python train.py --help all                         every key
  python train.py --help model.rope                  a group of keys, such as model or optimizer
  python train.py experiment=vit --help model        the same of a vision transformer

Keys that are often changed:
"""


def help_text(config: dict, topic: str = COMMON) -> str:
    """Help for a composed configuration; `topic` is `common`, `all`, a key or a group of keys."""
    notes, values = dict(comments(config)), flatten(config)
    topics = {COMMON: COMMON_KEYS.split(), ALL: values}
    keys = topics.get(topic) or [key for key in values if f".{topic}." in f".{key}."]
    if not keys:
        raise ConfigError(explain_unknown(topic, None, [*values, *config, ALL]))
    entries = ((f"{key}={format_value(values[key])}", notes.get(key, "")) for key in keys if key in values)
    if topic != COMMON:
        return format_entries(entries)
    groups = ((group, ", ".join(names)) for group, names in config_groups().items())
    return f"{USAGE}{format_entries(entries)}\n\nGroups, as group=file:\n{format_entries(groups)}"


def config_groups() -> dict[str, list[str]]:
    """Names of the files in each group that a user chooses from."""
    paths = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name not in ("recipe", "study")]
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(path.parent.name, []).append(path.stem)
    return groups


def comments(config: dict) -> Iterator[tuple[str, str]]:
    """Yields the full key and the comment of each commented key of a composed configuration."""
    for path in [CONFIGS / "train.yaml", *sorted(CONFIGS.glob("*/*.yaml"))]:
        text, group = path.read_text(encoding="utf-8"), path.parent.name
        kind = KIND.search(text)  # None in a file for every kind
        if group in ("experiment", "recipe", "study") or (kind and config[group].get(kind[1]) != kind[2]):
            continue
        prefix, parents = "" if path.parent == CONFIGS else f"{group}.", []
        for indent, key, comment in COMMENTED_KEY.findall(text):
            parents = [parent for parent in parents if len(parent[0]) < len(indent)] + [(indent, key)]
            if comment:
                yield prefix + ".".join(name for _, name in parents), comment
