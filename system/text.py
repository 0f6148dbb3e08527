"""Lines on the terminal, and formatting of messages: suggestions, commands, tables, durations, counts.

A closed terminal or pipe does not stop the program.
"""

import difflib
import os
import shlex
import sys
import textwrap
import unicodedata
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from system.errors import CommandError, reason

ROOT = Path(__file__).resolve().parents[1]
LINE_WIDTH = 100
KEPT = "\n\t\u200c\u200d"  # joiners are part of words and of emoji


def print_line(text: str) -> None:
    """Prints a line on standard output; the first failure is reported, later ones are not."""
    try:
        print(f"{escape(text)}\n", end="", flush=True)  # one write, so that lines of threads do not mix
    except OSError as error:
        discard_output(1)
        print_note(f"cannot write to standard output ({error.strerror}); the run continues.")


def print_result(text: str, *, end: str = "\n") -> None:
    """Prints a result of a command; CommandError if it cannot be written, as on a full disk."""
    try:
        print(escape(text), end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output(1)
        raise CommandError(f"cannot write to standard output ({reason(error)})") from error


def escape(text: str) -> str:
    """Text with control and direction characters escaped, which a terminal would obey."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in KEPT
        else char
        for char in text
    )


def print_error(text: str) -> None:
    """Prints a line on standard error, where it does not mix with results."""
    try:
        print(escape(text), file=sys.stderr, flush=True)
    except OSError:
        discard_output(2)


def print_note(text: str) -> None:
    """Prints `note: text` on standard error."""
    print_error(f"note: {text}")


def can_redraw_lines() -> bool:
    """Whether standard error is a terminal that can show the progress in one line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def discard_output(descriptor: int) -> None:
    """Redirects a file descriptor to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'choice'?` for the closest of the choices, or an empty string."""
    matches = difflib.get_close_matches(word, sorted(set(choices)), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def format_command(*words: str | Path) -> str:
    """Command line that works as printed, whether or not an environment is active.

    `words` are the arguments of Python, such as `train.py` or `-m`; a `Path` inside the working directory is
    printed relative to it.
    """
    directory = Path.cwd()
    program = ROOT / words[0] if words[0] == "train.py" else words[0]
    paths = [
        os.path.relpath(word) if isinstance(word, Path) and directory in word.parents else str(word)
        for word in (Path(sys.executable), program, *words[1:])
    ]
    needs_root = program == "-m" and (ROOT / words[1].partition(".")[0]).is_dir() and directory != ROOT
    return f"PYTHONPATH={shlex.quote(str(ROOT))} " * needs_root + shlex.join(paths)


def format_value(value: object, *, quoted: bool = False) -> str:
    """Value as written in YAML, such as `null`, `true` or `[1,2]`; text in quotes if `quoted`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(format_value(item) for item in value)}]"
    return repr(value) if quoted or not isinstance(value, str) else value


def format_entries(entries: Iterable[tuple[str, str]]) -> str:
    """Names with a text in a second column, in lines of at most `LINE_WIDTH`; long names have their own."""
    entries = list(entries)
    column = min(36, 4 + max(len(name) for name, _ in entries))
    wrap = partial(textwrap.wrap, width=LINE_WIDTH, subsequent_indent=" " * column, break_on_hyphens=False)
    lines = []
    for name, text in entries:
        if len(name) + 3 > column:
            lines.append(f"  {name}")
            name = ""
        lines += wrap(f"  {name}".ljust(column) + text, break_long_words=False)
    return "\n".join(lines)


def format_table(rows: list[dict]) -> str:
    """Table with a line for each row, and the keys as headers, on several lines if the table is wide."""
    headers = [name.replace("_", " ") for name in rows[0]]
    cells = [[format_cell(value) for value in row.values()] for row in rows]
    columns = list(zip(headers, *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + 2 * len(widths) - 2 > LINE_WIDTH:
        widths = [max(map(len, [*header.split(), *column])) for header, *column in columns]
    wrapped = [textwrap.wrap(header, width) for header, width in zip(headers, widths, strict=True)]
    height = max(map(len, wrapped))
    lines = zip(*([""] * (height - len(header)) + header for header in wrapped), strict=True)
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in [*lines, *cells]
    )


def format_cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def format_duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_count(number: int, unit: str) -> str:
    """`1 file` or `1,000 files`."""
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def format_share(number: int, total: int) -> str:
    """`6 of 8 (75 %)`, or from a hundred on `355 of 360 (98.6 %)`."""
    return f"{number:,} of {total:,} ({format_percent(number / total, int(total >= 100))})"


def format_percent(share: float, digits: int = 1) -> str:
    """`98.6 %`."""
    return f"{100 * share:.{digits}f} %"


def printable(name: str) -> str:
    """File name in Unicode's form NFC, with the bytes that are not UTF-8 escaped."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", errors="backslashreplace"))
