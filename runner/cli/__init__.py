"""Arguments, wiring, exit codes; the only package that prints.

Owns how runner looks in a terminal, in a pipe and in cron: results on stdout, everything else on stderr. Refuses to
decide anything: a command parses, calls one function of the house, renders, and returns a code.
"""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """The console script: run the command line and exit with the code of `docs/design.md`."""
    # Reading the modules makes hundreds of thousands of objects that all stay: to look for cycles among them after
    # every 700th would take a sixth of the start, and once more at the end.
    gc.set_threshold(20_000, 20, 100)
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe that cannot show a character gets its number, not the end of a run.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # text streams have it
    try:
        from runner.cli.app import run_app

        code = run_app(sys.argv[1:])
    except KeyboardInterrupt:
        # While modules were still being read: nothing has begun.
        code = 130
    gc.freeze()
    sys.exit(code)
