"""The text of `python train.py --help`: the groups, and every key with the comment beside it in its file."""

import re
from collections.abc import Iterator
from pathlib import Path

from configs.values import plain

HERE = Path(__file__).parent
COMMENTED_KEY = re.compile(r"( *)(\w+):[^#]*(?:# *(.*))?")
KIND = re.compile(r"^(architecture|source): (\w+)", re.MULTILINE)
USAGE = """\
Trains a language model or a vision transformer with rotary position embeddings.

  python train.py                                    a small model, this Python's own source as text
  python train.py experiment=vit                     a vision transformer, on handwritten digits
  python train.py experiment=vit --help              the keys of a vision transformer
  python train.py name=wide model.dim=256            any key below; the same command again resumes
  python train.py -m model.position=rotary,learned   one run for each value
  python train.py --cfg job experiment=shakespeare   the configuration alone

Exit codes: 0 complete, 1 diverged or lost a worker, 2 something to put right, 75 out of max_minutes, 129, 130
and 143 stopped by a closed terminal, Ctrl-C and SIGTERM; the same command goes on after the last four.

Groups, as group=file:
"""


def help_text(config: dict) -> str:
    """For a composed configuration."""
    groups = [f"  {group}: {', '.join(options)}" for group, options in groups_of(HERE).items()]
    keys = [f"  {line}" for line in commented(config, dict(comments(config)))]
    title = "Keys, as key=value; nested ones as model.rope.theta=value:"
    return "\n".join([USAGE, *groups, "", title, "", *keys])


def groups_of(directory: Path) -> dict[str, list[str]]:
    """Names of the files of each group that a user picks from."""
    found = [path for path in sorted(directory.glob("*/*.yaml")) if path.parent.name != "recipe"]
    return {
        group: [path.stem for path in found if path.parent.name == group]
        for group in sorted({path.parent.name for path in found})
    }


def comments(config: dict) -> Iterator[tuple[str, str]]:
    """(full key, comment) of each commented key of a composed configuration."""
    yield from comments_in(HERE / "train.yaml", "")
    for group in ("model", "data", "distribute"):
        for path in sorted(HERE.glob(f"{group}/*.yaml")):
            if is_of_kind(path, config[group]):
                yield from comments_in(path, f"{group}.")


def is_of_kind(path: Path, composed: dict) -> bool:
    """Whether a file of a group may hold the keys of what was composed: it names that kind, or none."""
    named = KIND.search(path.read_text(encoding="utf-8"))
    return named is None or composed.get(named[1]) == named[2]


def comments_in(path: Path, prefix: str) -> Iterator[tuple[str, str]]:
    parents: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (found := COMMENTED_KEY.match(line)):
            continue
        indent, key, comment = found.groups()
        parents = [parent for parent in parents if len(parent[0]) < len(indent)] + [(indent, key)]
        if comment:
            yield prefix + ".".join(name for _, name in parents), comment


def commented(nested: dict, comment_of: dict[str, str], prefix: str = "", indent: str = "") -> Iterator[str]:
    """One line a key."""
    for name, value in nested.items():
        is_group = isinstance(value, dict)
        text = "" if is_group else plain(value)
        comment = comment_of.get(prefix + name)
        line = f"{indent}{name}: {text}".rstrip()
        yield f"{line:32} # {comment}" if comment else line
        if is_group:
            yield from commented(value, comment_of, f"{prefix}{name}.", f"{indent}  ")
