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
    from runner.store import store_at

    chosen = options.gather(output=output, ledger=ledger)
    with Ledger.open(chosen.ledger_place, create=False) as opened:
        found = find_job(job, opened)
        store = store_at(chosen.output_for(found), found.name)
        link: str | None = None
        if to is not None:
            refuse_below(store.output, to, option="--to")
            if store.derived.has_gallery():
                page = store.located(store.derived.gallery_path)
                # Of a bucket its URL: nothing on this machine leads there.
                link = page if isinstance(page, str) else os.path.relpath(page, to.parent)
        text = night(opened, found, run, now=now(), store=store, gallery=link)
    if to is None:
        console.raw(text)
        return
    with replacing(to, option="--to") as stream:
        stream.write(text.encode())
    console.note(f"the report is in {console.safe(to)}")
