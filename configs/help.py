"""Text of `python train.py --help`: the groups, and every key with its comment in the YAML files."""

import re
from collections.abc import Iterator
from pathlib import Path

from system.text import format_value

CONFIGS = Path(__file__).resolve().parent
COMMENTED_KEY = re.compile(r"( *)(\w+):[^#]*(?:# *(.*))?")
KIND = re.compile(r"^(architecture|source): (\w+)", re.MULTILINE)
USAGE = """\
Trains a language model or a vision transformer with rotary position embeddings.

  python train.py                                    train a small language model on Python source
  python train.py experiment=vit                     train a vision transformer on handwritten digits
  python train.py experiment=vit --help              show the keys of a vision transformer
  python train.py name=wide model.dim=256            set any key below; repeat the command to resume the run
  python train.py -m model.position=rotary,learned   a sweep: one run for each value
  python train.py --cfg job experiment=shakespeare   print the configuration

Exit codes: 0 complete; 1 diverged or lost a worker; 2 invalid input; 70 internal error; 75 max_minutes
reached; 129, 130 and 143 stopped by a closed terminal, Ctrl-C and SIGTERM. After the last four the same
command resumes.

Groups, as group=file:
"""


def help_text(config: dict) -> str:
    """Help for a composed configuration."""
    groups = [f"  {group}: {', '.join(options)}" for group, options in config_groups().items()]
    keys = [f"  {line}" for line in commented(config, dict(comments(config)))]
    title = "Keys, as key=value; nested ones as model.rope.theta=value:"
    return "\n".join([USAGE, *groups, "", title, "", *keys])


def config_groups() -> dict[str, list[str]]:
    """Names of the files in each group that a user chooses from."""
    paths = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "recipe"]
    return {
        group: [path.stem for path in paths if path.parent.name == group]
        for group in sorted({path.parent.name for path in paths})
    }


def comments(config: dict) -> Iterator[tuple[str, str]]:
    """Yields the full key and the comment of each commented key of a composed configuration."""
    yield from comments_in(CONFIGS / "train.yaml", "")
    for group in ("model", "data", "distribute"):
        for path in sorted(CONFIGS.glob(f"{group}/*.yaml")):
            kind = KIND.search(path.read_text(encoding="utf-8"))  # None in a file for every kind
            if kind is None or config[group].get(kind[1]) == kind[2]:
                yield from comments_in(path, f"{group}.")


def comments_in(path: Path, prefix: str) -> Iterator[tuple[str, str]]:
    parents: list[tuple[str, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (match := COMMENTED_KEY.match(line)):
            continue
        indent, key, comment = match.groups()
        parents = [parent for parent in parents if len(parent[0]) < len(indent)] + [(indent, key)]
        if comment:
            yield prefix + ".".join(name for _, name in parents), comment


def commented(nested: dict, comment_of: dict[str, str], prefix: str = "", indent: str = "") -> Iterator[str]:
    """Yields one line for each key."""
    for name, value in nested.items():
        is_group = isinstance(value, dict)
        text = "" if is_group else format_value(value)
        comment = comment_of.get(prefix + name)
        line = f"{indent}{name}: {text}".rstrip()
        yield f"{line:32} # {comment}" if comment else line
        if is_group:
            yield from commented(value, comment_of, f"{prefix}{name}.", f"{indent}  ")
