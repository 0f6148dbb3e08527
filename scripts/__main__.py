"""Lists the commands: `python -m scripts`."""

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts`

from system.command import run_command
from system.text import format_command, format_entries, print_result


def main() -> None:
    paths = sorted(Path(__file__).parent.glob("[a-z]*.py"))
    command = format_command("-m", "scripts.NAME", "--help")
    print_result(f"{command}\n\n{format_entries((path.stem, summary_of(path)) for path in paths)}")


def summary_of(path: Path) -> str:
    """First line of the docstring of a command."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0].partition(": `")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(run_command(main))
