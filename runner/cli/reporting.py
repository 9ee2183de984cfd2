"""The command `report`: a run as an HTML document, for a mail or a browser.

Owns its arguments, and where the document goes.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Annotated

import typer

from runner.cli import console, options
from runner.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        short_help="A run as an HTML document that fits in a mail.",
        epilog="Example: runner report nightly-thumbnails --to night.html",
    )(report)


def report(
    job: options.Job,
    run: Annotated[
        int | None, typer.Option("--run", metavar="N", min=1, help="The run's number; the newest if left out.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A file to write, instead of stdout.")] = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
) -> None:
    """Tell of one run as HTML: how it ended, what it made and cost, why images are not there, and what to do next.

    The document is under 100 KB, with small pictures in it, without a script and without anything from elsewhere.
    """
    from runner.invocation import find_job
    from runner.ledger import Ledger
    from runner.report.night import night

    chosen = options.gather(output=output, ledger=ledger)
    folder = chosen.output_folder
    with Ledger.open(chosen.ledger_path, create=False) as opened:
        found = find_job(job, opened)
        page = folder / found.name / "gallery" / "index.html"
        link = os.path.relpath(page, to.parent) if to is not None and page.is_file() else None
        text = night(opened, found, run, now=dt.datetime.now(dt.UTC), output=folder, gallery=link)
    if to is None:
        console.raw(text)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{to} cannot be written: {error.strerror}", hint="name another file with --to") from None
    console.note(f"the report is in {console.safe(to)}")
