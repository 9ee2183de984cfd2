"""The command line as a whole: the application, its commands, and what becomes of errors.

Owns the exit codes of what goes wrong outside a run, and the promise that a user meets no traceback
(RUNNER_DEBUG=1 shows it).
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from runner.cli import (
    batches,
    choosing,
    console,
    ledgers,
    making,
    promoting,
    reporting,
    running,
    seeing,
    sheets,
    showing,
    verifying,
)
from runner.errors import InputError, RunnerError, innermost

INTERRUPTED = 130
_SLIPS = frozenset([errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP])
"""What the system says of a path that was typed wrong."""
_MOST_SHOWN = 300
_UsageError: Any = typer.BadParameter.__bases__[0].__bases__[0]
"""The base of what is wrong with a command line: click's, which typer keeps in one place or another."""

app = typer.Typer(
    name="runner",
    help="Batch image generation: a manifest in, images and a ledger out, nothing paid twice.",
    epilog="Examples: `runner init`, `runner plan jobs/first.yaml`, "
    "`runner run jobs/first.yaml --provider simulator`, `runner status`. "
    "Exit codes: 0 done, 1 unexpected, 2 usage or manifest, 4 some not made, 5 budget, 6 provider, 7 locked, "
    "8 time limit, 130 interrupted.",
    no_args_is_help=True,
    # Plain help: the same in a terminal and in a pipe, and half the time to start.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
running.register(app)
batches.register(app)
seeing.register(app)
reporting.register(app)
showing.register(app)
sheets.register(app)
choosing.register(app)
promoting.register(app)
verifying.register(app)
making.register(app)
ledgers.register(app)


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said to them.
        console.hush(sys.stdout)
        return 1
    except OSError as error:
        console.hush(sys.stdout)
        console.fail(RunnerError(f"the output cannot be written: {error.strerror}"), as_json=False)
        return 1
    return code


def _run(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    try:
        result = command.main(args=list(arguments), prog_name="runner", standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except _UsageError as error:
        # It repeats what was typed, and that may be what a terminal would obey.
        shown = io.StringIO()
        error.show(shown)
        console.note(console.safe(shown.getvalue().rstrip("\n"), keep_lines=True))
        return int(error.exit_code)
    except RunnerError as error:
        _raise_if_debugging()
        console.fail(error, as_json="--json" in arguments)
        return error.exit_code
    except KeyboardInterrupt:
        console.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as raised:
        _raise_if_debugging()
        told = _in_words(innermost(raised))
        console.fail(told, as_json="--json" in arguments)
        return told.exit_code
    return result if isinstance(result, int) else 0


def _in_words(cause: BaseException) -> RunnerError:
    """What nobody has caught: a path that the system takes for none, or a fault of ours."""
    if isinstance(cause, OSError) and cause.filename is not None:
        kind = InputError if cause.errno in _SLIPS else RunnerError
        return kind(f"{str(cause.filename)[:_MOST_SHOWN]}: {cause.strerror}", hint="check the path and its permissions")
    return RunnerError(
        f"unexpected error: {type(cause).__name__}: {cause}",
        hint="what was done is on record and safe; RUNNER_DEBUG=1 shows where it happened",
    )


def _raise_if_debugging() -> None:
    if os.environ.get("RUNNER_DEBUG") == "1":
        raise  # called from an except block
