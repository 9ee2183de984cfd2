"""Arguments, wiring, exit codes; the only package that prints.

Owns how runner looks in a terminal, in a pipe and in cron: results on stdout, everything else on stderr. Refuses to
decide anything: a command parses, calls one function of the house, renders, and returns a code.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The console script: run the command line and exit with the code of `docs/design.md`."""
    from runner.cli.app import run_app

    sys.exit(run_app(sys.argv[1:]))
