"""The command that draws a contact sheet.

Owns its arguments, and the kind of file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli import console, options
from runner.cli.writing import refuse_below, replacing
from runner.errors import InputError

if TYPE_CHECKING:
    from runner.renditions.sheet import Kind


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        short_help="A job's images on one picture or some pages, for mail and chat.",
        epilog="Example: runner sheet style-sweep --columns quality --to sweep.pdf",
    )(sheet)


def sheet(
    job: options.Job,
    rows: Annotated[
        str, typer.Option("--rows", metavar="AXIS", help="What differs from row to row: prompt, sample, any axis.")
    ] = "prompt",
    columns: Annotated[
        str,
        typer.Option("--columns", metavar="AXIS", help="What differs from column to column; variant is all axes."),
    ] = "variant",
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="A .png, .jpg or .pdf file [default: JOB-sheet.png]. It is replaced."
        ),
    ] = None,
    size: Annotated[int, typer.Option("--size", metavar="PIXELS", min=48, max=1024, help="The side of a cell.")] = 256,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="What stands above [default: the job's name].")
    ] = None,
    font: Annotated[
        Path | None, typer.Option("--font", metavar="FILE", help="A font for the labels: .ttf, .otf or .ttc.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The first N rows at most.")] = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
) -> None:
    """Draw a contact sheet: a job's images in rows and columns, as PNG or JPEG, or as the pages of a PDF."""
    from runner.invocation import find_job
    from runner.ledger import Ledger
    from runner.renditions.lettering import Letters
    from runner.renditions.sheet import save
    from runner.report.sheets import sheet as choose
    from runner.store import store_at

    given = options.gather(output=output, ledger=ledger)
    letters = Letters(font)
    with Ledger.open(given.ledger_place, create=False) as opened:
        found = find_job(job, opened)
        file = to if to is not None else Path(f"{found.name}-sheet.png")
        kind = _kind(file)
        store = store_at(given.output_for(found), found.name)
        refuse_below(store.output, file, option="--to")
        chosen = choose(
            opened,
            found,
            store=store,
            rows=rows,
            columns=columns,
            size_px=size,
            title=title,
            limit=limit,
        )
    with replacing(file, option="--to") as stream:
        pages = save(chosen, stream, kind, letters)
    console.out(f"{console.safe(file)}: {len(chosen.rows)} rows" + (f", {pages} pages" if kind == "pdf" else ""))


def _kind(file: Path) -> Kind:
    endings: dict[str, Kind] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".pdf": "pdf"}
    kind = endings.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"a sheet is no {file.suffix or 'file without an ending'}", hint="write a .png, .jpg or .pdf")
    return kind
