"""The command `report`: a run as an HTML document, for a mail or a browser.

Owns its arguments, and where the document goes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from runner.cli import console, options
from runner.cli.writing import refuse_below, replacing


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
    from runner.invocation import find_job, now
    from runner.ledger import Ledger
    from runner.report.night import night
    from runner.store import Store

    chosen = options.gather(output=output, ledger=ledger)
    folder = chosen.output_folder
    if to is not None:
        refuse_below(folder, to, option="--to")
    with Ledger.open(chosen.ledger_path, create=False) as opened:
        found = find_job(job, opened)
        files = Store(folder, found.name).derived
        has_link = to is not None and files.has_gallery()
        link = os.path.relpath(folder / files.gallery_path, to.parent) if to is not None and has_link else None
        text = night(opened, found, run, now=now(), output=folder, gallery=link)
    if to is None:
        console.raw(text)
        return
    with replacing(to, option="--to") as stream:
        stream.write(text.encode())
    console.note(f"the report is in {console.safe(to)}")
