"""The command line as a whole: the application, its commands, and what becomes of errors.

Owns the exit codes of what goes wrong outside a run, and the promise that a user meets no traceback
(RUNNER_DEBUG=1 shows it).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from runner.cli import console, making, running, seeing
from runner.errors import RunnerError

INTERRUPTED = 130

app = typer.Typer(
    name="runner",
    help="Batch image generation: a manifest in, images and a ledger out, nothing paid twice.",
    epilog="Examples: `runner init`, `runner plan jobs/first.yaml`, "
    "`runner run jobs/first.yaml --provider simulator`, `runner status`. "
    "Exit codes: 0 done, 1 unexpected, 2 usage or manifest, 4 some not made, 5 budget, 6 provider, 7 locked, "
    "8 time limit, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
running.register(app)
seeing.register(app)
making.register(app)


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=list(arguments), prog_name="runner", standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except RunnerError as error:
        _raise_if_debugging()
        console.fail(error, as_json="--json" in arguments)
        return error.exit_code
    except KeyboardInterrupt:
        console.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        _raise_if_debugging()
        console.fail(
            RunnerError(
                f"unexpected error: {type(error).__name__}: {error}",
                hint="what was done is on record and safe; RUNNER_DEBUG=1 shows where it happened",
            ),
            as_json="--json" in arguments,
        )
        return 1
    return result if isinstance(result, int) else 0


def _raise_if_debugging() -> None:
    if os.environ.get("RUNNER_DEBUG") == "1":
        raise  # called from an except block
