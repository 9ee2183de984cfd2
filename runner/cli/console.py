"""Words on the terminal: plain, aligned, coloured where that is wanted, and never another's escape sequences.

Owns stdout and stderr. Everything that came from a manifest, a provider or a file goes through `safe`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from runner.errors import ManifestError, RunnerError

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def out(text: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line for whoever watches."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def line(entry: Mapping[str, Any]) -> None:
    """One JSON line of the result."""
    sys.stdout.write(json.dumps(entry, ensure_ascii=True) + "\n")


def raw(text: str) -> None:
    """Text that brings its own newline, flushed at once: a reader of a pipe sees it as it happens."""
    sys.stdout.write(text)
    sys.stdout.flush()


def hush(stream: IO[str]) -> None:
    """Let nothing more reach a stream whose reader has gone, so that what is still in its buffer fails nobody."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def fail(error: RunnerError, *, as_json: bool) -> None:
    """Say what went wrong."""
    if as_json:
        entry = {"type": "error", "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        if isinstance(error, ManifestError):
            entry |= {"source": error.source, "line": error.line, "column": error.column}
        line(entry)
    note(f"{paint('error:', 'red', sys.stderr)} {safe(str(error), keep_lines=True)}")


def warn(text: str) -> None:
    """A warning for whoever watches."""
    note(f"{paint('warning:', 'yellow', sys.stderr)} {safe(text)}")


def safe(text: object, *, keep_lines: bool = False) -> str:
    """`text` without anything that a terminal would obey: control characters and direction marks are shown as ·."""
    return "".join(c if c.isprintable() or (keep_lines and c == "\n") else "·" for c in str(text))


def paint(text: str, colour: str, stream: IO[str] | None = None) -> str:
    """`text` in a colour, where the stream is a terminal and NO_COLOR is not set."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> None:
    """A table on stdout; the first `left` columns are text, the others numbers."""
    cells = [list(header), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for index, row in enumerate(cells):
        text = "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        out(paint(text.rstrip(), "bold") if index == 0 else text.rstrip())


def program() -> str:
    """How to call runner from here: by its name where the shell finds it, else by its path."""
    found = shutil.which("runner")
    called = Path(sys.argv[0])
    if found is not None or called.name != "runner":
        return "runner"
    return os.path.relpath(called)


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `2h05m`, `1d04h`."""
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86_400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86_400}d{total % 86_400 // 3600:02d}h"
