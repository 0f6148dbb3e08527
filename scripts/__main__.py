"""Lists the commands: `python -m scripts`."""

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts`

from system.command import run_command
from system.text import format_command, format_entries, print_result


def main() -> None:
    entries = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        entries.append((path.stem, docstring.splitlines()[0].partition(": `")[0].rstrip(".")))
    print_result(f"{format_command('-m', 'scripts.NAME', '--help')}\n\n{format_entries(entries)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
